"""The lines of a batch's input: what each asks for, or what is wrong with it. Knows neither models nor answers.

A line's `id` is a digest of its text and of the model's name. Its answer carries it, so that a run that goes on knows
whether an answer is to this very line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_lfm.errors import UsageError
from edge_lfm.server.batch_output import ID, BatchOutput
from edge_lfm.server.settings import Settings


class Entry(msgspec.Struct):
    """A line that can be answered."""

    custom_id: str
    url: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    body: dict[str, Any]
    method: Literal["POST"] = "POST"


@dataclass(frozen=True)
class Line:
    """What a line asks for, or what is wrong with it; number: from 1; where: its first byte in the file."""

    number: int
    where: int
    id: str
    custom_id: str | None = None
    problem: str = ""

    @property
    def head(self) -> dict[str, Any]:
        """What its record begins with."""
        return {"id": self.id, "custom_id": self.custom_id, "line": self.number}

    def refusal(self) -> dict[str, Any]:
        """The record of a line with a problem."""
        error = {"code": "invalid_line", "message": f"line {self.number}: {self.problem}"}
        return self.head | {"response": None, "error": error}


class Requests:
    """The file `source`, whose lines go to the model called `model`.

    Raises:
        UsageError: it cannot be read.
    """

    def __init__(self, source: Path, model: str) -> None:
        self._source, self._model = source, model
        self.lines = list(self._read())

    def left(self, output: BatchOutput) -> list[Line]:
        """The lines that the output has no answer to.

        Raises:
            UsageError: it has answers to others.
        """
        known = {line.id for line in self.lines if not line.problem}
        if foreign := next((i for i in output.answered if i not in known), None):
            place = f"line {output.answered[foreign]} of {output.path}"
            raise UsageError(
                f"{place} answers no line of {self._source} for the model {self._model!r}",
                hint="name another output, or the requests and the model that it belongs to",
            )
        done = output.refused
        return [x for x in self.lines if ((x.number, x.id) not in done if x.problem else x.id not in output.answered)]

    def texts(self, lines: Sequence[Line]) -> Iterator[bytes]:
        """The text of each line.

        Raises:
            UsageError: the file is another now, or cannot be read.
        """
        try:
            with self._source.open("rb") as file:
                for line in lines:
                    file.seek(line.where)
                    if self._id(raw := file.readline()) != line.id:
                        raise UsageError(f"{self._source} has changed while it was read", hint="run it again to go on")
                    yield raw
        except OSError as error:
            raise UsageError(f"{self._source}: {error.strerror}", hint="run it again to go on") from None

    def _id(self, raw: bytes) -> str:
        return ID + hashlib.sha256(msgspec.json.encode(self._model) + raw.strip()).hexdigest()[:32]

    def _read(self) -> Iterator[Line]:
        """All lines but empty ones."""
        where, seen = 0, dict[str, int]()
        try:
            if self._source.exists() and not self._source.is_file() and not self._source.is_dir():
                raise UsageError(f"{self._source} is no file", hint="name a file of requests: it is read twice")
            with self._source.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if raw.strip():
                        yield _check(raw, number, where, self._id(raw), seen)
                    where += len(raw)
        except OSError as error:
            raise UsageError(f"{self._source}: {error.strerror}", hint="name a file of requests, one a line") from None


def _check(raw: bytes, number: int, where: int, id: str, seen: dict[str, int]) -> Line:
    """A line as it is in the file; `seen`: the custom_ids of earlier ones."""
    try:
        entry = msgspec.json.decode(raw, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Line(number, where, id, problem=str(error) or type(error).__name__)
    if entry.custom_id in seen:
        return Line(number, where, id, entry.custom_id, f"the custom_id stands in line {seen[entry.custom_id]} too")
    seen[entry.custom_id] = number
    if len(raw) > Settings.body_bytes:
        return Line(number, where, id, entry.custom_id, f"it is larger than {Settings.body_bytes} bytes")
    if entry.body.get("stream"):
        return Line(number, where, id, entry.custom_id, "an answer in a file is not streamed; leave stream out")
    return Line(number, where, id, entry.custom_id)
