"""Running the server: the socket first, so that a taken port is told at once; then uvicorn, until a signal ends it.

After a signal nothing new begins; what is running gets some seconds, and then ends with an error event.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from edge_lfm.errors import UsageError
from edge_lfm.server.app import make_app
from edge_lfm.server.connections import Protocol, take_files
from edge_lfm.server.hosting import Hosting
from edge_lfm.server.logs import handle_loop_error
from edge_lfm.server.settings import Settings
from edge_lfm.server.socket import MAX_MESSAGE_BYTES
from edge_lfm.server.supervisor import Child, stay_up

log = logging.getLogger("edge_lfm.server")
_ACCEPTED_AT_ONCE = 64
"""Connections accepted before any is counted; each takes a file."""
_END_S = 4.0
"""From the end of the grace to that of the process, whatever still runs: answers have told their clients by then."""
_SWITCH_S = 0.0005
"""How long a thread of Python may go on while another waits. Five milliseconds are the default, and cost the engine as
much for each token while somebody's long prompt is prepared."""


def serve(
    settings: Settings, host: str, port: int, insecure: bool, ready: Callable[[str], object], restart: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        ready: called with the server's address when it listens.
        restart: start it again when it dies.

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
        child = stay_up() if restart else None

        def listening() -> None:
            if child is not None:
                child.ready()
            if child is not None and child.again:
                log.warning("the server is back")
            else:
                ready(f"http://{shown}:{address[1]}")

        asyncio.run(_run(settings, listener, listening, child))


async def _run(
    settings: Settings, listener: socket.socket, listening: Callable[[], object], child: Child | None
) -> None:
    take_files()
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
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.grace_s) + 5,
        ws_max_size=min(settings.body_bytes, MAX_MESSAGE_BYTES),
    )
    server = _Server(config)
    stop = _Stop(server, hosting, settings.grace_s)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(handle_loop_error)
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.ask)
        if child is not None:
            loop.add_reader(child.line, stop.ask_once, child.line)  # its end: the parent is gone
    gc.collect()
    gc.freeze()  # else the collector goes through 50,000 objects of modules again and again, 30 ms in one piece
    await hosting.start()  # a model that cannot be loaded is told before the first request
    listening()
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Stop:
    """The end in three steps: no more requests; after a while, or a second signal, no more answers; then no process.

    The last is a timer outside Python: threads that hold the interpreter, or never end, hold nobody up.
    """

    def __init__(self, server: uvicorn.Server, hosting: Hosting, grace_s: float) -> None:
        self._server, self._hosting, self._grace_s = server, hosting, grace_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._nowhere = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115 (for as long as the process lives)

    def ask(self) -> None:
        seconds = 0.0 if self._hosting.ending else self._grace_s
        self._hosting.ending = self._server.should_exit = True
        faulthandler.dump_traceback_later(seconds + _END_S, exit=True, file=self._nowhere)
        self._tasks.add(asyncio.get_running_loop().create_task(self._finish(seconds)))

    def ask_once(self, line: socket.socket) -> None:
        """As `ask`, for what can be read of `line` again and again."""
        asyncio.get_running_loop().remove_reader(line)
        self.ask()

    async def _finish(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._hosting.unload()  # every answer that is still running ends with an error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends small answers at once only where the socket says that it is TCP; else they wait 40 ms
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
        raise UsageError(f"there is no port {port}", hint="choose one of 0..65535; 0 takes a free one") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
