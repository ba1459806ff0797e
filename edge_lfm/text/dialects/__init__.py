"""How families write tool calls: a file for each form. A form is chosen by marks in the chat template."""

from edge_lfm.text.dialects.dialect import Call, Dialect
from edge_lfm.text.dialects.pythonic import PYTHONIC

DIALECTS: tuple[Dialect, ...] = (PYTHONIC,)

__all__ = ["DIALECTS", "PYTHONIC", "Call", "Dialect", "dialect_of"]


def dialect_of(template: str) -> Dialect:
    """The form of calls that a chat template teaches; the first of `DIALECTS` if it shows none."""
    return next((dialect for dialect in DIALECTS if dialect.fits(template)), DIALECTS[0])
