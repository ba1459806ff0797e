"""Tool calls in the form of a model's family: read from an answer, written into a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_lfm.text.dialects import PYTHONIC, Call, Dialect

__all__ = ["Call", "parse_calls", "write_calls"]


def parse_calls(
    text: str, parameters: Mapping[str, Sequence[str]] | None = None, dialect: Dialect = PYTHONIC
) -> list[Call]:
    """The calls of the text between the call markers.

    Args:
        parameters: for each known tool the names of its parameters, in order.

    Raises:
        ToolCallError: it is none.
    """
    return dialect.read(text, parameters or {})


def write_calls(calls: Sequence[Call], dialect: Dialect = PYTHONIC) -> str:
    """The text of calls, as models of the family write it."""
    return dialect.write(calls)
