"""Work that a stranger's words can make endless, in a process of its own: what takes too long or too much is ended.

Compiling a grammar happens in native code and checking a schema in other people's Python: neither can be interrupted
in a thread, and both can be made to take all time and memory by a few hundred bytes. Knows processes and limits; the
jobs are functions of `trials.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

from edge_lfm.errors import GrammarError

MAX_SECONDS, MAX_BYTES = 4.0, 1 << 30
MAX_PROCESSES = 4
_START = "import sys; sys.path[:] = {path!r}; from edge_lfm.engine.trials import main; main({job!r}, {nbytes})"
_free = threading.BoundedSemaphore(MAX_PROCESSES)


def run_apart(job: str, *arguments: Any) -> Any:
    """What a function of `trials.py` gives for these arguments; both are JSON.

    Starting the process costs a tenth of a second. It may use four seconds and a gigabyte of addresses, and runs at a
    low priority, so that answers go on.

    Raises:
        GrammarError: it took too long, or too much memory.
    """
    command = [sys.executable, "-P", "-c", _START.format(path=sys.path, job=job, nbytes=MAX_BYTES)]
    with _free:
        try:
            done = subprocess.run(
                command, input=json.dumps(arguments).encode(), capture_output=True, timeout=MAX_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise GrammarError(f"it takes longer than {MAX_SECONDS:g} s to read", hint="make it simpler") from None
    if done.returncode:
        raise GrammarError("it takes too much memory to read", hint="make it simpler")
    return json.loads(done.stdout)
