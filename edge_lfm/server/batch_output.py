"""The file that a batch's answers go into: a line each, written whole, so that a run that was killed can go on.

Knows lines of JSON; does not know who makes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from edge_lfm.errors import OutputError, UsageError

ID = "batch_req_"
_BEGIN = f'{{"id":"{ID}'.encode()


class _Written(msgspec.Struct):
    """What is read again of a line."""

    id: str
    custom_id: str | None
    line: int
    response: msgspec.Raw
    error: msgspec.Raw


class BatchOutput:
    """Opened, or made, for one process. What a killed run left of a last line is cut off.

    answered: ids of lines that are done, with the place of each answer here; refused: numbers and ids of lines that ask
    for nothing that can be done.

    Raises:
        UsageError: it is no output of a batch, or another process writes to it.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answered, self.refused = dict[str, int](), set[tuple[int, str]]()
        self._count = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}", hint="name a file that can be written") from None
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):  # a device would be read without end
                raise UsageError(f"{path} is no file", hint="name a file that can be written")
            self._lock()
            self._bytes = sum(self._read())
            os.ftruncate(self._file, self._bytes)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            OutputError: there is no room left; the lines before it are whole.
        """
        line = msgspec.json.encode(record) + b"\n"
        try:
            done = 0
            while done < len(line):
                done += os.pwrite(self._file, line[done:], self._bytes + done)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._bytes)
            raise OutputError(f"{self.path}: {error.strerror}", hint="make room, and run it again to go on") from None
        self._bytes += len(line)
        self._note(record["id"], record["line"], record["response"] is None)

    def _note(self, id: str, line: int, refused: bool) -> None:
        self._count += 1
        if refused:
            self.refused.add((line, id))
        else:
            self.answered[id] = self._count

    def _lock(self) -> None:
        """Keep other processes out; on file systems without locks, nobody is kept out."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process writes to {self.path}", hint="wait for it, or name another") from None
        except OSError:
            pass

    def _read(self) -> Iterator[int]:
        """The bytes of each line that was written whole."""
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n") and raw[: len(_BEGIN)] == _BEGIN[: len(raw)]:
                    return
                try:
                    written = msgspec.json.decode(raw, type=_Written)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    raise UsageError(
                        f"line {number} of {self.path} is no answer of a batch", hint="name another output"
                    ) from None
                self._note(written.id, written.line, bytes(written.response) == b"null")
                yield len(raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)
