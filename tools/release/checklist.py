"""The checklist of a release: steps in order, each with what it found, or why it failed. Knows no step."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class ReleaseError(Exception):
    """A step that does not hold; its words say what to do."""


@dataclass(frozen=True)
class Step:
    """A name, and what is done; it returns what it found, in a few words. `needs` names earlier steps."""

    name: str
    do: Callable[[], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """state: ok, FAIL, or left (a step that it needs failed)."""

    name: str
    state: str
    words: str
    seconds: float


def go_through(steps: Sequence[Step]) -> list[Outcome]:
    """Every step, also after one that failed: a release manager sees all that is left to do at once."""
    outcomes: list[Outcome] = []
    for step in steps:
        begin = time.monotonic()
        missing = [o.name for o in outcomes if o.name in step.needs and o.state != "ok"]
        if missing:
            state, words = "left", f"needs {', '.join(missing)}"
        else:
            try:
                state, words = "ok", step.do()
            except ReleaseError as error:
                state, words = "FAIL", str(error)
        outcomes.append(Outcome(step.name, state, words, time.monotonic() - begin))
        print(f"{state:4} {step.name:10} {words} ({outcomes[-1].seconds:.0f} s)", file=sys.stderr, flush=True)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    rows = [f"| {o.name} | {o.state} | {o.words} | {o.seconds:.0f} s |" for o in outcomes]
    return "\n".join(["| step | state | what | time |", "|---|---|---|---|", *rows]) + "\n"


def call(*command: str, **more: object) -> str:
    """What a command prints.

    Raises:
        ReleaseError: it failed; with its last line.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise ReleaseError(f"{' '.join(command)[:100]}: {lines[-1]}")
    return str(done.stdout)
