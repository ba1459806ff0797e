"""One connection: HTTP/1.1 whose heads come in time, whose errors are JSON, and of which there are never too many.

uvicorn limits the time between two requests and the number of connections; not the time that a half-sent second head
may take, and what it refuses it answers in plain text. Where there is no room, the connection goes that has waited
longest for its client's next request. Knows HTTP; does not know what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from edge_lfm.errors import EdgeLfmError
from edge_lfm.server.failures import RequestError, describe

HEAD_S = 20.0
"""From the connection, or the last answer, to the end of the next request's head."""
MAX_CONNECTIONS = 1024
RESERVED_FILES = 256
"""For the model, pages, pipes, and connections between their being accepted and being counted."""


class Protocol(H11Protocol):
    """See above. `waiting`: whether no request is being answered, `since` when."""

    since = 0.0
    _timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > max_connections() and not self._close_oldest():
            self._refuse(RequestError("there are too many connections; try again later", status=503))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._expect_head()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        self._refuse(RequestError(msg))

    def _refuse(self, error: EdgeLfmError) -> None:
        """Answer with an error and close; where an answer is under way already, only close."""
        status, content = describe(error)
        body = msgspec.json.encode(content)
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        with contextlib.suppress(h11.LocalProtocolError):
            response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_head(self) -> None:
        self._stop_timer()
        self.since = self.loop.time()
        self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def _give_up(self) -> None:
        if self.waiting and not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _close_oldest(self) -> bool:
        """Close the connection that has waited longest, if any but this one waits."""
        others = [c for c in self.connections if isinstance(c, Protocol) and c is not self and c.waiting]
        if not others:
            return False
        min(others, key=lambda c: c.since).transport.abort()
        return True


def max_connections() -> int:
    """How many connections there may be: fewer where the system gives fewer files."""
    try:
        import resource
    except ImportError:
        return MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_CONNECTIONS + RESERVED_FILES if soft == resource.RLIM_INFINITY else soft
    return max(8, min(MAX_CONNECTIONS, files - RESERVED_FILES))


def take_files() -> None:
    """Ask the system for as many open files as `MAX_CONNECTIONS` needs."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = MAX_CONNECTIONS + RESERVED_FILES
        if soft != resource.RLIM_INFINITY and soft < files:
            limit = files if hard == resource.RLIM_INFINITY else min(files, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
