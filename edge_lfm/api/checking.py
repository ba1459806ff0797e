"""Values against the types that an editor checks: written once as annotations, and checked at run time too.

Knows annotations; does not know what an option means. Ranges are checked where an option is used.
"""

from __future__ import annotations

import difflib
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from edge_lfm.errors import UsageError

_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    type: "a class",
    type(None): "None",
}


def check_type(name: str, value: object, annotation: Any) -> None:
    """Refuse a value that its annotation does not allow.

    Raises:
        UsageError: it does not.
    """
    if not _matches(value, annotation):
        raise UsageError(f"{name} is {shown(value)}", hint=f"it must be {describe(annotation)}")


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse names that are not known, and say which ones are near.

    Raises:
        UsageError: one is not known.
    """
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"unknown {what} '{name:.60}'", hint=hint)


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Refuse what is no whole number within limits.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name} is {shown(value)}", hint=f"it must be a whole number of {least}..{most}")


def check_path(name: str, value: object) -> Path:
    """A path that the system can be asked about.

    Raises:
        UsageError: it is no path, or has characters that no path can have.
    """
    check_type(name, value, str | Path)
    try:
        encoded = os.fsencode(value)  # type: ignore[arg-type]
    except UnicodeEncodeError:
        encoded = b"\0"
    if not encoded or b"\0" in encoded or any(len(part) > 255 for part in encoded.split(b"/")) or len(encoded) > 4000:
        raise UsageError(f"{name} is {shown(value)}", hint="it must be the path of a file or folder")
    return Path(value)  # type: ignore[arg-type]


def shown(value: object) -> str:
    """A value as a message shows it: short, whatever it is."""
    if isinstance(value, int) and abs(value) > 10**20:
        return "a huge number"
    if isinstance(value, str | int | float | bytes | types.NoneType):
        return f"{value!r:.60}"
    return f"a value of type {type(value).__name__}"


def describe(annotation: Any) -> str:
    """An annotation in words: `str | None` is "a text or None"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in inner))
    if origin is Literal:
        return " or ".join(repr(choice) for choice in inner)
    if origin is Sequence:
        return "a list" if inner[0] is Any else f"a list, each {describe(inner[0])}"
    if origin is tuple:
        return f"({', '.join(describe(part) for part in inner)})"
    return "a mapping" if origin is Mapping else _WORDS.get(annotation, getattr(annotation, "__name__", "a value"))


def _matches(value: Any, annotation: Any) -> bool:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, part) for part in inner)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin is Sequence:
        return _is_list(value) and all(_matches(item, inner[0]) for item in value)
    if origin is tuple:
        return _is_list(value) and len(value) == len(inner) and all(map(_matches, value, inner))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _matches(key, inner[0]) and _matches(item, inner[1]) for key, item in value.items()
        )
    if isinstance(value, bool):
        return annotation is bool
    return isinstance(value, int | float) if annotation is float else isinstance(value, annotation)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
