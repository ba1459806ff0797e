"""A process that starts the server again when it dies of a fault in native code, or is killed for its memory.

The parent holds the listening socket and does nothing else; the child serves. While there is no child, clients wait in
the socket's queue in place of being refused. Knows processes; does not know what they do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from typing import Any

from edge_lfm.errors import UsageError

log = logging.getLogger("edge_lfm.server")
MAX_DELAY_S = 30.0
HEALTHY_S = 60.0
"""A child that lived so long starts anew at once; one that died earlier after twice the time of the last."""


class Child:
    """The child's side: `again` tells whether it stands in for one that died. `line`: ends when the parent does."""

    def __init__(self, line: socket.socket, again: bool) -> None:
        self.line, self.again = line, again

    def ready(self) -> None:
        """Tell the parent that the server listens: from now on its end is no refusal to start."""
        with contextlib.suppress(OSError):
            self.line.send(b"r")


def stay_up() -> Child:
    """Go on as a child, which is replaced when it dies; the parent ends here, with the exit code of the last child.

    Raises:
        UsageError: this system knows no fork.
        SystemExit: in the parent, at the end.
    """
    if not hasattr(os, "fork"):
        raise UsageError("--restart needs fork, which this system has not", hint="let a service manager restart it")
    delay, again = 0.0, False
    while True:
        ours, theirs = socket.socketpair()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.setpgid(0, 0)  # Ctrl-C comes through the parent, once
            return Child(theirs, again)
        theirs.close()
        status, asked = _wait(pid)
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            again = again or ours.recv(1) == b"r"
        ours.close()
        code = os.waitstatus_to_exitcode(status)
        if asked or code == 0 or (code > 0 and not again):
            raise SystemExit(max(code, 0) if asked else code)
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        delay = 0.0 if time.monotonic() - started > HEALTHY_S else min(MAX_DELAY_S, 2 * delay + 0.5)
        log.error("the server ended by %s; it starts again in %.1f s", cause, delay)
        again = True
        if _sleep(delay):
            raise SystemExit(0)


def _wait(pid: int) -> tuple[int, bool]:
    """A child's status when it has ended, and whether it was asked to; what asks the parent asks the child."""
    asked: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        asked.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    with _handling(pass_on):
        return os.waitpid(pid, 0)[1], bool(asked)


def _sleep(seconds: float) -> bool:
    """Wait; whether a signal asked for the end meanwhile."""
    asked: list[int] = []
    with _handling(lambda number, _frame: asked.append(number)):
        end = time.monotonic() + seconds
        while not asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
    return bool(asked)


@contextlib.contextmanager
def _handling(handler: Any) -> Any:
    """The signals that end a server, handled by this."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)
