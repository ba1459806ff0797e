"""Work that a stranger's words can make endless, in a process of its own: what takes too long or too much is ended.

Compiling a grammar happens in native code and checking a schema in other people's Python: neither can be interrupted
in a thread, and both can be made to take all time and memory by a few hundred bytes. Knows processes and limits; the
jobs are functions of `trials.py`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge_lfm.errors import BusyError, GrammarError

MAX_SECONDS, MAX_BYTES = 4, 1 << 30
"""Of computing, and of addresses."""
MAX_WAIT_S = 20.0
"""Of waiting: beside answers, a process of low priority takes many times as long as it computes."""
MAX_PROCESSES, MAX_WAITING, MAX_QUEUE_S = 4, 12, 10.0
"""At a time; who finds more waiting, or waits longer, is told to come again: others need the thread that waits."""
_LOOK_S = 0.05
"""Between two of these, a thread that waits is interrupted (`text/deadline.py`)."""
_START = (
    "import sys; sys.path[:] = {path!r}; from edge_lfm.engine.trials import main; main({job!r}, {nbytes}, {seconds})"
)
_line: dict[int, None] = {}
"""The threads that are here, as they came; the first have their processes. A lock that a thread took when it was
interrupted would never be free again."""


def run_apart(job: str, *arguments: Any) -> Any:
    """What a function of `trials.py` gives for these arguments; both are JSON.

    Starting the process costs a tenth of a second. It may compute for four seconds and use a gigabyte of addresses, and
    runs at a low priority, so that answers go on. It is ended when the thread that waits for it is interrupted.

    Raises:
        GrammarError: it took too long, or too much memory.
        BusyError: too many wait already, or the system gives no process for it.
    """
    start = _START.format(path=sys.path, job=job, nbytes=MAX_BYTES, seconds=MAX_SECONDS)
    with _turn():
        code, output = _run([sys.executable, "-P", "-c", start], json.dumps(arguments).encode())
    if code == -getattr(signal, "SIGXCPU", 0):
        raise _late()
    if code:
        raise GrammarError("it takes too much memory to read", hint="make it simpler")
    return json.loads(output)


@contextmanager
def _turn() -> Iterator[None]:
    """One of the processes that may run at a time."""
    me, until = threading.get_ident(), time.monotonic() + MAX_QUEUE_S
    busy = BusyError("too many grammars and schemas are being read", hint="try again later")
    if len(_line) >= MAX_PROCESSES + MAX_WAITING:
        raise busy
    try:
        _line[me] = None
        while list(_line).index(me) >= MAX_PROCESSES:
            if time.monotonic() > until:
                raise busy
            time.sleep(_LOOK_S)
        yield
    finally:
        _line.pop(me, None)


def _run(command: list[str], text: bytes) -> tuple[int, bytes]:
    """Exit code and output of a process that was given a text."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise BusyError(f"no process could be started: {error.strerror}", hint="try again later") from None
    until, unsent = time.monotonic() + MAX_WAIT_S, [text]
    with process:
        try:
            while True:
                try:
                    output, _ = process.communicate(unsent.pop() if unsent else None, timeout=_LOOK_S)
                    return process.returncode, output
                except subprocess.TimeoutExpired:
                    if time.monotonic() > until:
                        raise _late() from None
        except BaseException:
            process.kill()
            raise


def _late() -> GrammarError:
    return GrammarError(f"it takes longer than {MAX_SECONDS} s to read", hint="make it simpler")
