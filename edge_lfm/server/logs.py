"""The server's log on standard error: one line an event, control characters escaped, and no line a hundred times."""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import time
from typing import Any

log = logging.getLogger("edge_lfm.server")
AGAIN_S = 60.0
"""A client can make the same warning as often as it likes; it is written once in a minute."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def set_up_logging(level: str = "info") -> None:
    """Write what the server, what it serves, uvicorn and asyncio have to say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Escaped("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("edge_lfm")
    package.handlers[:] = [handler]
    package.setLevel(level.upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Escaped("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_Once())
    for name in ("uvicorn", "asyncio", "websockets"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False


def handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For asyncio: no room for another connection is one line; anything else is told as usual."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        logging.getLogger("asyncio").error("no room for another connection: %s", error.strerror)
    else:
        loop.default_exception_handler(context)


class _Once(logging.Filter):
    """Lets a message through once in a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now, key = time.monotonic(), str(record.msg)[:200]
        if now - self._told.get(key, -AGAIN_S) < AGAIN_S:
            return False
        if len(self._told) > 1000:
            self._told.clear()
        self._told[key] = now
        return True


class _Escaped(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        text = super().formatMessage(record)
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
