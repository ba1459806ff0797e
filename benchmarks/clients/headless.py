"""Command-line agents, each in an empty home, which is its working folder too. Their prompts are of thousands of
tokens, so what the demo model says to them means nothing: what counts is that they take it as an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIMIT_S = 150
COMMANDS = Path(sys.argv[2]) / "node_modules/.bin"


@contextmanager
def home() -> Iterator[Path]:
    """An empty folder. Ends what was started with it as its home, daemons too, where there is a /proc."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"HOME={folder}\0".encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


def run(folder: Path, *command: str, until: str | None = None, **environment: str) -> str:
    """What an agent writes, to its end, or to the first line that has `until` in it.

    Raises:
        AssertionError: it fails, or takes too long.
    """
    process = subprocess.Popen(
        [str(COMMANDS / command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        start_new_session=True,  # so that what it starts ends with it
        env=os.environ | {"HOME": str(folder), "PWD": str(folder)} | environment,
    )
    assert process.stdout
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
    signal.alarm(LIMIT_S)
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if until is not None and until in line:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return line
    signal.alarm(0)
    assert process.wait() == 0, f"{process.returncode}: {''.join(lines)[-400:]}"
    return "".join(lines)
