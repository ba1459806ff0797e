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
from typing import Any

from edge_lfm.errors import BusyError, GrammarError

MAX_SECONDS, MAX_BYTES = 4, 1 << 30
"""Of computing, and of addresses."""
MAX_WAIT_S = 20.0
"""Of waiting: beside answers, a process of low priority takes many times as long as it computes."""
MAX_PROCESSES = 4
_START = (
    "import sys; sys.path[:] = {path!r}; from edge_lfm.engine.trials import main; main({job!r}, {nbytes}, {seconds})"
)
_free = threading.BoundedSemaphore(MAX_PROCESSES)


def run_apart(job: str, *arguments: Any) -> Any:
    """What a function of `trials.py` gives for these arguments; both are JSON.

    Starting the process costs a tenth of a second. It may compute for four seconds and use a gigabyte of addresses, and
    runs at a low priority, so that answers go on.

    Raises:
        GrammarError: it took too long, or too much memory.
        BusyError: the system gives no process for it.
    """
    start = _START.format(path=sys.path, job=job, nbytes=MAX_BYTES, seconds=MAX_SECONDS)
    command, late = [sys.executable, "-P", "-c", start], f"it takes longer than {MAX_SECONDS} s to read"
    with _free:
        try:
            done = subprocess.run(
                command, input=json.dumps(arguments).encode(), capture_output=True, timeout=MAX_WAIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise GrammarError(late, hint="make it simpler") from None
        except OSError as error:
            raise BusyError(f"no process could be started: {error.strerror}", hint="try again later") from None
    if done.returncode and done.returncode == -getattr(signal, "SIGXCPU", 0):
        raise GrammarError(late, hint="make it simpler")
    if done.returncode:
        raise GrammarError("it takes too much memory to read", hint="make it simpler")
    return json.loads(done.stdout)
