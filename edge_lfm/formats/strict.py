"""The one way in for small files: bytes, UTF-8 text, JSON and TOML, each within stated bounds. Knows no keys.

What Python's own readers accept and nothing later is made for is refused here: NaN, names that stand twice, integers
of very many digits, numbers beyond a double, nesting beyond `MAX_DEPTH`, lone surrogates, what is no regular file.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_lfm.errors import ModelFileError

MAX_FILE_BYTES = 64 << 20
"""Of a text file beside a model; the largest published tokenizer.json has 35 MB."""
MAX_TOML_BYTES = 1 << 16
MAX_DEPTH = 64
_MAX_INTEGER_DIGITS = 40  # transformers writes 10**30 as the model_max_length of tokenizers that have none


def read_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """A regular file, whole.

    Raises:
        ModelFileError: it is missing, unreadable, no regular file, or larger than `max_bytes`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not block
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path} is not a regular file", hint="copy the file again")
            if status.st_size > max_bytes:
                raise ModelFileError(f"{path} has {status.st_size} bytes, more than {max_bytes}", hint="copy it again")
            return file.read(max_bytes)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist", hint="is this folder a model?") from None
    except (OSError, ValueError) as error:  # the latter: a NUL or a lone surrogate in the name
        raise ModelFileError(f"{str(path)!r:.200} cannot be read: {_reason(error)}") from None


def read_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> str:
    """A file of UTF-8 text.

    Raises:
        ModelFileError: as of `read_bytes`, or it is no UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path} is not UTF-8: {error.reason} at byte {error.start}", hint=_COPY) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelFileError: the file cannot be read, or holds no JSON object within the bounds.
    """
    return json_object(read_bytes(path), str(path))


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object; `where` stands in the message.

    Raises:
        ModelFileError: it is none within the bounds.
    """
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ModelFileError(f"{where} cannot be read as JSON: {error}", hint=_COPY) from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{where} holds a JSON {type(value).__name__}, not an object", hint=_COPY)
    return value


def parse_json(content: bytes) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is none, or not within the bounds.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    _check(value, texts=b"\\u" in content)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        ModelFileError: the file cannot be read, or is no TOML within the bounds.
    """
    text = read_text(path, MAX_TOML_BYTES)
    try:
        value = tomllib.loads(text)
        _check(value, texts=False)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read as TOML: {error}", hint="check its syntax") from None
    return value


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """Turn what goes wrong with the content of a file that passed every check here into one line with its place.

    A net under the checks, so that a kind of damage that nobody thought of is told and not traced.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{where} holds what cannot be meant: {type(error).__name__}: {_reason(error)}", hint=_COPY
        ) from error


def _check(value: Any, texts: bool) -> None:
    """Depth, and of JSON with escapes also its texts: an escape may spell half a character."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if texts and any("\ud800" <= c <= "\udfff" for c in item):
                raise ValueError("a text holds a lone surrogate, which is not valid Unicode")
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
            inside = [*item.keys(), *item.values()] if isinstance(item, dict) else item
            waiting += [(i, depth + 1) for i in inside if texts or isinstance(i, dict | list)]


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_DIGITS + 1:
        raise ValueError(f"an integer has {len(text)} digits")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is beyond a double")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)[:200]


_COPY = "copy the file again"
