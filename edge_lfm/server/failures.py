"""Every failure as the JSON and with the status that a route's clients expect. Nothing else may reach a client."""

from __future__ import annotations

import logging
import re
import uuid
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_lfm.errors import BusyError, ContextOverflowError, EdgeLfmError
from edge_lfm.server.error_forms import error_json

log = logging.getLogger("edge_lfm.server")
RETRY_AFTER_S = 5


class RequestError(EdgeLfmError):
    """A request that cannot be served. param: the field at fault; code: for programs; status: of HTTP."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message, param=param)
        self.code, self.http_status = code, status


def describe(error: BaseException, path: str = "") -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON of any error on a route. One that nobody foresaw is logged under an id, and told by it
    alone."""
    status, param, code = 500, None, None
    if isinstance(error, RequestError):
        status, param, code, message = error.http_status, error.param, error.code, error.message
    elif isinstance(error, EdgeLfmError):
        status, param, message = error.http_status, error.param, str(error)
        if status == 500:
            log.error("an answer failed: %s", message)
        if isinstance(error, ContextOverflowError):
            code = "context_length_exceeded"
    elif isinstance(error, msgspec.ValidationError):
        status, message, param = 400, str(error), _path_of(str(error))
    elif isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        status, message = 400, f"the body is not valid JSON: {error}"
    elif isinstance(error, RecursionError):
        status, message = 400, "the body is nested too deeply"
    elif isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    elif isinstance(error, MemoryError):
        status, message = 503, "out of memory"
    else:
        number = uuid.uuid4().hex[:8]
        log.error("internal error %s", number, exc_info=error)
        message, code = f"internal error {number}; the server's log tells more", "internal_error"
    return status, error_json(path, status, message, param, code)


def response(error: BaseException, path: str = "") -> Response:
    """The HTTP response to an error on a route."""
    status, body = describe(error, path)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, BusyError) or status in (429, 503) else {}
    if status in (408, 413):  # the rest of the body is not wanted
        headers["Connection"] = "close"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status_code=status, headers=headers)


async def handle(request: Request, error: Exception) -> Response:
    """For Starlette's table of exception handlers."""
    return response(error, request.url.path)


def _path_of(message: str) -> str | None:
    """`temperature` from msgspec's "... - at `$.temperature`"."""
    match = re.search(r"at `\$\.?(.*)`$", message) or re.search(r"required field `(.*)`", message)
    return match[1] if match and match[1] else None
