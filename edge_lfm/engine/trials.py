"""The jobs of `apart.py`: each is tried where it can be ended. Imports little: its process starts anew each time."""

from __future__ import annotations

import contextlib
import json
import os
import sys


def grammar(source: str) -> str:
    """What is wrong with one of llguidance's grammars, or nothing."""
    import llguidance

    return str(llguidance.LLMatcher.validate_grammar(source))


def main(job: str, nbytes: int) -> None:
    """Read arguments from standard input, write the result to standard output."""
    _limit(nbytes)
    result = {"grammar": grammar}[job](*json.load(sys.stdin))
    json.dump(result, sys.stdout)


def _limit(nbytes: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # another system: the time limit remains
        import resource

        os.nice(10)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))
