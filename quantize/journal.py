"""What a quantization has finished so far: one line of JSON a tensor, so that a killed run can go on.

A line is written only after its tensor is on disk, so what the journal names is there, whatever happened. The
first line says which source, recipe and layout the lines belong to. Knows no tensors.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_lfm.errors import OutputError
from edge_lfm.formats.strict import parse_json

SYNC_SECONDS = 5.0
"""Work that a kill can cost. Flushing more often would make the disk wait: a sync takes 10-100 ms."""


@dataclass(frozen=True)
class Unit:
    """One finished tensor."""

    index: int
    checksum: int
    error: float  # squared, summed over its weights
    signal: float
    sources: tuple[str, ...]  # hashes of its source tensors
    feedback: tuple[bool, ...] = ()  # per matrix: whether error feedback was kept


class Journal:
    """An open journal, locked against other processes; a context manager.

    `flush`: puts the written tensors on disk.

    Raises:
        OutputError: another process holds it, it belongs to another source or recipe, or it cannot be written.
    """

    def __init__(self, path: Path, fingerprint: str, flush: Callable[[], None] = lambda: None) -> None:
        self.path, self.flush = path, flush
        self._waiting: list[Unit] = []
        self._synced = time.monotonic()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.units = self._read(fingerprint)
        except BlockingIOError:
            os.close(self._file)
            raise OutputError(f"another edge-lfm is writing to {path.parent}", hint="wait for it, or end it") from None
        except BaseException:
            os.close(self._file)
            raise

    def note(self, unit: Unit) -> None:
        """Remember a tensor that was written; every few seconds, put all of them on disk."""
        self._waiting.append(unit)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Put the tensors on disk, then their lines."""
        self.flush()
        self._append("".join(json.dumps(asdict(unit)) + "\n" for unit in self._waiting))
        self._waiting, self._synced = [], time.monotonic()

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._file, data) :]
        os.fdatasync(self._file)

    def _read(self, fingerprint: str) -> dict[int, Unit]:
        """The units of whole lines; a torn last line is cut off."""
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._file, len(whole))
        try:
            lines = [parse_json(line) for line in whole.splitlines()]
            units = [_unit(line) for line in lines[1:]]
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{self.path} is no journal of this version: {error}", hint="start anew with --force"
            ) from None
        if not lines:
            self._append(json.dumps({"fingerprint": fingerprint}) + "\n")
            return {}
        if lines[0] != {"fingerprint": fingerprint}:
            raise OutputError(
                f"{self.path.parent} was begun with another source, recipe or calibration",
                hint="resume with the same ones, or start anew with --force",
            )
        return {unit.index: unit for unit in units}


def _unit(line: dict[str, Any]) -> Unit:
    """A line's unit; ValueError, TypeError or KeyError: it is none."""
    unit = Unit(**line | {"sources": tuple(line["sources"]), "feedback": tuple(line["feedback"])})
    numbers = all(type(n) in (int, float) and n >= 0 for n in (unit.error, unit.signal))
    texts = all(isinstance(text, str) for text in unit.sources) and all(type(kept) is bool for kept in unit.feedback)
    if type(unit.index) is not int or type(unit.checksum) is not int or not numbers or not texts:
        raise ValueError("a line has values of other types")
    return unit
