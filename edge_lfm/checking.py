"""Arguments against the types that an editor checks: written once, as annotations, and checked at run time too.

Knows annotations; does not know what an option means. Ranges are checked where an option is used.
"""

from __future__ import annotations

import collections.abc
import difflib
import functools
import inspect
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from edge_lfm.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
_Takes = tuple[str, inspect.Signature, Mapping[str, Any]]

_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    type: "a class",
    type(None): "None",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A public function whose arguments are checked against its annotations when it is called.

    An unknown name, a missing argument or a value of another type is a UsageError.
    """

    takes: list[_Takes] = []  # found at the first call: annotations may name what is defined later

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not takes:
            takes.append(_read_signature(function))
        _check_call(*takes[0], args, kwargs)
        return function(*args, **kwargs)

    return call


def checked_record(record: type[R]) -> type[R]:
    """A dataclass that is `checked` when it is made."""
    record.__init__ = checked(record.__init__)  # type: ignore[method-assign]
    return record


def called_as(other: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """Give a method the parameters of another callable, for editors and for `help`."""

    def decorate(method: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        own, theirs = inspect.signature(method), inspect.signature(other)
        first, *_ = own.parameters.values()
        method.__signature__ = own.replace(parameters=[first, *theirs.parameters.values()])  # type: ignore[attr-defined]
        return method

    return decorate


def _check_call(
    name: str, signature: inspect.Signature, known: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    check_names(kwargs, known)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{name}: {error}", hint=f"its arguments are {', '.join(known)}") from None
    for argument, value in bound.arguments.items():
        if signature.parameters[argument].kind is inspect.Parameter.VAR_KEYWORD:
            for option, given in value.items():
                check_type(option, given, known[option])
        elif argument in known:
            check_type(argument, value, known[argument])


def _read_signature(function: Callable[..., object]) -> _Takes:
    """A function's name and signature; its arguments, options included, with their types."""
    signature, hints = inspect.signature(function), get_type_hints(function)
    known: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:  # **options: Unpack[a TypedDict]
            known |= get_type_hints(get_args(hints[name])[0])
        elif name in hints:
            known[name] = hints[name]
    return function.__qualname__.removesuffix(".__init__"), signature, known


def check_type(name: str, value: object, annotation: Any) -> None:
    """Refuse a value that its annotation does not allow.

    Raises:
        UsageError: it does not.
    """
    if not _matches(value, annotation):
        raise UsageError(f"{name} is {shown(value)}", hint=f"it must be {describe(annotation)}", param=name)


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that are not known, and say which ones are near.

    Raises:
        UsageError: one is not known.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
            raise UsageError(f"unknown option '{name:.60}'", hint=hint, param=name)


def check_whole(name: str, value: object, lowest: int, highest: int) -> int:
    """A whole number within limits.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        hint = f"it must be a whole number of {lowest}..{highest}"
        raise UsageError(f"{name} is {shown(value)}", hint=hint, param=name)
    return value


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
    annotation = _written_out(annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in inner))
    if origin is Literal:
        return " or ".join(repr(choice) for choice in inner)
    if origin is collections.abc.Sequence:
        return f"a list of {describe(inner[0]).removeprefix('a ')}s"
    if origin is tuple:
        return f"({', '.join(describe(part) for part in inner)})"
    if origin is collections.abc.Callable:
        return "a function"
    if origin is np.ndarray:
        return "an array"
    return (
        "a mapping"
        if origin is collections.abc.Mapping
        else _WORDS.get(annotation, getattr(annotation, "__name__", "a value"))
    )


def _written_out(annotation: Any) -> Any:
    """What an alias stands for: NumPy's NDArray is one from Python 3.12 and NumPy 2.5 on (`type NDArray[T] = ...`)."""
    alias = get_origin(annotation)
    return alias.__value__[get_args(annotation)] if hasattr(alias, "__value__") else annotation


def _matches(value: Any, annotation: Any) -> bool:
    annotation = _written_out(annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, part) for part in inner)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin is collections.abc.Sequence:
        return _is_list(value) and all(type(item) is inner[0] or _matches(item, inner[0]) for item in value)
    if origin is tuple:
        return _is_list(value) and len(value) == len(inner) and all(map(_matches, value, inner))
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(
            _matches(key, inner[0]) and _matches(item, inner[1]) for key, item in value.items()
        )
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu"
    if isinstance(value, bool):
        return annotation is bool
    if annotation is int:
        return isinstance(value, int | np.integer)
    return isinstance(value, int | float) if annotation is float else isinstance(value, annotation)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
