"""The jobs of `apart.py`: each is tried where it can be ended. Imports little: its process starts anew each time."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def grammar_source(kind: str, text: str, style: dict[str, Any]) -> str:
    """A grammar as llguidance takes it. `style`: how JSON is written.

    Raises:
        ValueError: it is none.
    """
    import llguidance

    if kind == "json":
        return str(llguidance.LLMatcher.grammar_from_json_schema(text, overrides=style))  # type: ignore[arg-type]
    return str(getattr(llguidance.LLMatcher, f"grammar_from_{kind}")(text))


def grammar(kind: str, text: str, style: dict[str, Any]) -> str:
    """What is wrong with a grammar, or nothing."""
    import llguidance

    try:
        return str(llguidance.LLMatcher.validate_grammar(grammar_source(kind, text, style)))
    except ValueError as error:
        return str(error)


def json_fault(schema: Any, text: str) -> list[str | None]:
    """What is wrong with a text that should be JSON of a schema, and what with the schema; None: nothing."""
    from edge_lfm.engine.json_checks import make_check
    from edge_lfm.errors import UsageError

    try:
        return [make_check(schema, patterns=True)(text), None]
    except UsageError as error:
        return [None, str(error)]


def main(job: str, nbytes: int, seconds: int) -> None:
    """Read arguments from standard input, write the result to standard output."""
    _limit(nbytes, seconds)
    jobs: dict[str, Callable[..., object]] = {"grammar": grammar, "json_fault": json_fault}
    json.dump(jobs[job](*json.load(sys.stdin)), sys.stdout)


def _limit(nbytes: int, seconds: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # another system: the limit of waiting remains
        import resource

        os.nice(10)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))
