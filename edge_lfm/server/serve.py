"""Running the server: the socket first, so that a taken port is told at once; then uvicorn, until a signal ends it.

After a signal nothing new begins; what is running gets some seconds, and then ends with an error event.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_lfm.errors import UsageError
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

log = logging.getLogger("edge_lfm.server")
_FIRST_REQUEST_S = 20.0
_MOST_CONNECTIONS = 1024


class Protocol(H11Protocol):
    """HTTP/1.1; a connection that does not send a whole head in time is closed."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(_FIRST_REQUEST_S, self._expect_head)

    def _expect_head(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def serve(settings: Settings, host: str, port: int, insecure: bool, ready: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM. `ready`: called with the server's address when it listens.

    Raises:
        UsageError: the port is taken, the address is not this machine's, or a key is missing.
        EdgeLfmError: the model cannot be loaded.
    """
    if not _is_loopback(host) and settings.api_key is None and not insecure:
        raise UsageError(
            f"{host} can be reached by others, and there is no API key",
            hint="give --api-key, or --insecure if the network is yours alone",
        )
    with _listen(host, port) as listener:
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        asyncio.run(_run(settings, listener, lambda: ready(f"http://{shown}:{address[1]}")))


async def _run(settings: Settings, listener: socket.socket, ready: Callable[[], object]) -> None:
    app = make_app(settings)
    hosting = app.state.service.hosting
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="websockets-sansio",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=15,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=int(settings.grace_s) + 5,
        ws_max_size=settings.body_bytes,
    )
    server = _Server(config)
    stop = _Stop(server, hosting, settings.grace_s)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.ask)
    async with hosting.lend():  # a model that cannot be loaded is told before the first request
        pass
    ready()
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Stop:
    """The end in two steps: no more requests, then, after a while or a second signal, no more answers."""

    def __init__(self, server: uvicorn.Server, hosting: Any, grace_s: float) -> None:
        self._server, self._hosting, self._grace_s = server, hosting, grace_s
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self) -> None:
        again = self._hosting.ending
        self._hosting.ending = self._server.should_exit = True
        task = asyncio.get_running_loop().create_task(self._finish(0.0 if again else self._grace_s))
        self._tasks.add(task)

    async def _finish(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._hosting.unload()  # every answer that is still running ends with an error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(512)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is taken", hint="stop what uses it, or choose another with --port") from None
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}", hint="see --host") from None
    except OverflowError:
        raise UsageError(f"port {port} is none", hint="choose one of 0..65535; 0 takes a free one") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def set_up_logging() -> None:
    """One line per event on standard error, control characters escaped."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Escaped("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


class _Escaped(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        text = super().formatMessage(record)
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
