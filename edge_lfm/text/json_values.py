"""JSON read strictly, and so that every program can read it again: no NaN, no infinity, no half of a surrogate pair.

Numbers that no double can hold come as whole numbers, exactly as they were written. Knows no schemas.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

MAX_DIGITS = 4000
"""Of a whole number: Python writes and reads 4,300."""
_LONE = re.compile("[\ud800-\udfff]")


def read_json(text: str, strict: bool = True) -> Any:
    """The value of a JSON text. `strict`: refuse raw control characters in strings.

    Raises:
        ValueError: it is no JSON, or holds a number of more than `MAX_DIGITS` digits.
        RecursionError: it is nested too deeply.
    """
    return _mended(json.loads(text, strict=strict, parse_float=read_number, parse_constant=_refuse))


def read_number(text: str) -> float | int:
    """The value of a number that is written with a fraction or an exponent.

    Raises:
        ValueError: it has more than `MAX_DIGITS` digits.
    """
    value = float(text)
    if math.isfinite(value):
        return value
    try:
        exact = Decimal(text)
    except ArithmeticError:
        raise ValueError(f"{text:.40} is too large") from None
    if exact.adjusted() >= MAX_DIGITS:
        raise ValueError(f"{text:.40} is too large")
    return int(exact)


def whole_text(text: str) -> str:
    """The text with pairs of surrogates joined, and U+FFFD for each that is alone."""
    if _LONE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return {whole_text(k): _mended(v) for k, v in value.items()} if isinstance(value, dict) else value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
