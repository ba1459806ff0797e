"""Who may come in, and with what: hosts, origins, the key, content types and sizes. ASGI middleware around everything.

A local server is reached by every web page that the user visits: so a name that a page has rebound to this machine is
refused by its Host, a page of a foreign origin by its Origin, and no permission is ever reflected.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import socket

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_lfm.server.failures import RequestError, response
from edge_lfm.server.settings import Settings

_OPEN = ("/", "/health")  # to be seen without a key
_BODY_S = 30.0
_LINGER_S = 2.0
MAX_HELD_BYTES = 64 << 20
"""Of the bodies of all requests that are read or answered. Decoded, a hostile one takes twenty times as much."""


class Guard:
    """Wraps an app."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._hosts = {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        self._hosts |= {name.lower() for name in settings.allowed_hosts}
        self._key = settings.api_key.encode() if settings.api_key else None
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with _Share(self) as share:
            try:
                self._check(scope, Headers(scope=scope))
                if scope["type"] == "http":
                    receive = await self._body(scope, receive, share)
            except RequestError as error:
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
                else:
                    await _refuse(error, scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_ours(_name_of(host)):
            raise RequestError("this Host is not served here (--allow-host adds a name)", status=403)
        origin = headers.get("origin")
        if origin is not None and not {origin, "*"} & {*self._settings.cors_origins} and not _is_same(origin, host):
            raise RequestError("pages of a foreign origin may not use this server (--cors-origin)", status=403)
        preflight = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if self._key is not None and not preflight and scope["path"] not in _OPEN:
            self._check_key(headers)
        if scope["type"] == "http" and scope["method"] == "POST":
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            if kind != "application/json":
                raise RequestError("the content type must be application/json", status=415)

    def _check_key(self, headers: Headers) -> None:
        """The key as a bearer token, or as Anthropic's clients send it."""
        given = [*headers.getlist("authorization"), *(f"Bearer {key}" for key in headers.getlist("x-api-key"))]
        kind, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        right = hmac.compare_digest(key.strip().encode("latin-1"), self._key or b"")  # the bytes that came
        if kind.lower() != "bearer" or not right:
            raise RequestError("a valid API key is needed: Authorization: Bearer KEY", None, "invalid_api_key", 401)

    def _is_ours(self, name: str) -> bool:
        """This machine's names, and IP addresses, which no page can have rebound."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    async def _body(self, scope: Scope, receive: Receive, share: _Share) -> Receive:
        """Read the body within its limits of size, of time, and of all bodies together; what then receives it."""
        limit, declared = self._settings.body_bytes, Headers(scope=scope).get("content-length", "0")
        too_large = RequestError(f"the body is larger than {limit} bytes", status=413)
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        share.take(int(declared) if declared.isdigit() else 0)  # what has begun can be finished
        parts, size = [], 0
        try:
            async with asyncio.timeout(_BODY_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    share.take(size)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise RequestError(f"the body did not come within {_BODY_S:g} s", status=408) from None
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return replay


class _Share:
    """What one request holds of the memory for bodies, until it is answered."""

    def __init__(self, guard: Guard) -> None:
        self._guard, self._bytes = guard, 0

    def take(self, nbytes: int) -> None:
        """Hold so much in all.

        Raises:
            RequestError: all requests together hold too much.
        """
        more = max(0, nbytes - self._bytes)
        self._bytes += more
        self._guard.held_bytes += more
        if more and self._guard.held_bytes > MAX_HELD_BYTES:
            raise RequestError("other requests are too large; try again later", status=503)

    def __enter__(self) -> _Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.held_bytes -= self._bytes


async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error. Of a body that is too large a little more is read: hanging up on what is still under way would
    take the answer from its sender."""
    answer = response(error, scope["path"])
    if error.http_status not in (413, 503):
        await answer(scope, receive, send)
        return

    async def send_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await answer(scope, receive, send_open)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body"})


def _name_of(host: str) -> str:
    """`localhost` from `localhost:8000`, `::1` from `[::1]:8000`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _is_same(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())
