"""Running code that a model wrote, in a process that can do nothing but compute (`sandboxed.py`).

Model output is hostile input. No check of Python's names or syntax keeps code in; the kernel does, or the code is not
run. Knows no tasks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_lfm.errors import SandboxError
from edge_lfm.measure.sandboxed import READY, WALL_SECONDS

PROGRAM = Path(__file__).with_name("sandboxed.py")
_START_SECONDS = 20.0


@dataclass(frozen=True)
class Job:
    """Call the function `name` of `source` with the arguments of each test."""

    source: str
    name: str
    tests: list[list[Any]]


def run_jobs(jobs: Sequence[Job]) -> list[Any]:
    """What each job's calls return, as a list; None if the code fails, is killed, or returns no plain values.

    Values are numbers, texts, lists, and tuples, sets and dicts in a form of their own, to be compared with each other.

    Raises:
        SandboxError: this machine cannot confine a process.
    """
    program = [sys.executable, "-I", "-S", str(PROGRAM)]
    lines = "".join(json.dumps(asdict(job)) + "\n" for job in jobs)
    try:
        done = subprocess.run(
            program,
            input=lines,
            capture_output=True,
            text=True,
            check=False,
            env={},
            cwd="/",
            timeout=_START_SECONDS + 2 * WALL_SECONDS * len(jobs),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _refused(str(error)) from None
    first, _, rest = done.stdout.partition("\n")
    if first != READY:
        raise _refused(first or f"its process ended with {done.returncode}")
    results = [_parsed(json.loads(line)) for line in rest.splitlines()]
    if len(results) != len(jobs):
        raise _refused(f"{len(jobs) - len(results)} of {len(jobs)} results are missing")
    return results


def check_sandbox() -> None:
    """Try it with nothing to run.

    Raises:
        SandboxError: this machine cannot confine a process.
    """
    run_jobs([])


def _parsed(text: str | None) -> Any:
    """The values; the text came from the code's own process and may be anything."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _refused(why: str) -> SandboxError:
    return SandboxError(
        f"code of a model cannot be run here: {why:.200}",
        hint="it needs Linux on x86-64 or ARM64 with user namespaces and seccomp; leave --run-code out",
    )
