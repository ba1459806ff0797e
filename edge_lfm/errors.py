"""The one error tree: every failure that a user can meet says what happened, where, and what to do.

Knows nothing of who raises or shows an error. `exit_code` is what the CLI ends with, `http_status`
what a server answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EdgeLfmError(Exception):
    """Base of every error of this package.

    Args:
        message: what happened and where, one line.
        hint: what to do about it, one line, or empty.
        param: the argument at fault, by its name in the API; None: none of them, or it is not known.
    """

    exit_code = 1
    http_status = 500

    def __init__(self, message: str, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint, self.param = message, hint, param

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@contextmanager
def about(param: str) -> Iterator[None]:
    """Errors inside are about this argument, if they name no other."""
    try:
        yield
    except EdgeLfmError as error:
        error.param = error.param or param
        raise


class UsageError(EdgeLfmError):
    """An argument is out of range, or two arguments contradict each other."""

    exit_code, http_status = 2, 400


class ModelFileError(EdgeLfmError):
    """A model's file is missing, damaged, truncated, or not what it claims to be."""

    exit_code, http_status = 3, 503


class UnsupportedModelError(EdgeLfmError):
    """The checkpoint is sound, but asks for something that is not implemented."""

    exit_code, http_status = 3, 503


class DrafterError(EdgeLfmError):
    """A drafter is not of the model that it was given for."""

    exit_code, http_status = 3, 503


class OutputError(EdgeLfmError):
    """The result cannot be written: it exists, the disk is full, permission is missing."""

    exit_code = 3


class DoesNotFitError(EdgeLfmError):
    """The model does not fit into the memory that was given."""

    exit_code, http_status = 4, 503


class MissingExtraError(EdgeLfmError):
    """An optional package is not installed. extra: what brings it."""

    exit_code, http_status = 5, 501

    def __init__(self, message: str, extra: str) -> None:
        super().__init__(message, hint=install_line(extra))


def install_line(extra: str) -> str:
    """How to install an extra from where this package came: a checkout, a file, or the index."""
    import json  # all of this takes longer to import than --help may take
    from importlib.metadata import PackageNotFoundError, distribution
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    try:
        came = json.loads(distribution("edge-lfm").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # a checkout that is not installed, or a copied folder
        root = Path(__file__).parents[1]
        came = {"url": root.as_uri(), "dir_info": {"editable": True}} if (root / "pyproject.toml").exists() else {}
    where, editable = came.get("url", ""), came.get("dir_info", {}).get("editable")
    place = unquote(urlsplit(where).path) if where.startswith("file:") else "edge-lfm"
    return f"pip install {'-e ' if editable else ''}'{place}[{extra}]'"


class DownloadError(EdgeLfmError):
    """A model cannot be fetched: no network, no such repository, no permission."""

    exit_code, http_status = 6, 502


class IsaError(EdgeLfmError):
    """The processor lacks an instruction set, or kernels could not be built for it."""

    exit_code = 5


class SandboxError(EdgeLfmError):
    """Code of a model was to be run, and this machine cannot confine it."""

    exit_code = 5


class ContextOverflowError(EdgeLfmError):
    """The prompt is longer than the context."""

    exit_code, http_status = 2, 400


class TemplateError(EdgeLfmError):
    """The chat template refuses the messages, or is itself broken."""

    exit_code, http_status = 2, 400


class NumericalError(EdgeLfmError):
    """A NaN or infinity appeared in the activations: the model's weights are broken."""

    http_status = 503


class CancelledError(EdgeLfmError):
    """The one who asked has left, or closed the answer."""

    exit_code, http_status = 130, 499


class BusyError(EdgeLfmError):
    """Too many requests are waiting already."""

    http_status = 429


class ShuttingDownError(EdgeLfmError):
    """The model is being closed."""

    http_status = 503


class SessionFileError(EdgeLfmError):
    """A saved conversation is damaged, or belongs to another model."""

    exit_code, http_status = 3, 400


class GrammarError(EdgeLfmError):
    """A grammar does not compile, or cannot be satisfied."""

    exit_code, http_status = 2, 400


class CheckError(EdgeLfmError):
    """No answer of several passed a check.

    The server has asked again itself: a status of 500 and more would have the clients' libraries ask the same again.
    """

    http_status = 422


class ToolCallError(EdgeLfmError):
    """The text of a tool call cannot be read."""
