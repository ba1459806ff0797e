"""Text from a user's files and pipes, read strictly: UTF-8, and an end within a bound."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from edge_lfm.errors import UsageError

MAX_TEXT_BYTES = 256 << 20
"""More than any context or calibration takes; what has no end, as `/dev/zero`, would fill the memory."""


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        UsageError: it cannot be read, it has more than `MAX_TEXT_BYTES`, or it is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            return read_stream(file, str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="give the name of a text file") from None


def read_stream(stream: BinaryIO, name: str) -> str:
    """The rest of an open stream; `name` stands in the message.

    Raises:
        UsageError: as of `read_text`.
        OSError: it cannot be read.
    """
    return text_of(stream.read(MAX_TEXT_BYTES + 1), name)


def text_of(content: bytes, name: str) -> str:
    """Bytes as text; `name` stands in the message.

    Raises:
        UsageError: as of `read_text`.
    """
    if len(content) > MAX_TEXT_BYTES:
        raise UsageError(f"{name} has more than {MAX_TEXT_BYTES >> 20} MiB", hint="give a part of it")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = f"iconv -t UTF-8 {name} > text.txt" if name != "standard input" else "convert it with iconv"
        raise UsageError(f"{name} is not UTF-8: byte {error.start}", hint=hint) from None
