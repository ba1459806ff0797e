"""The packed model's weight file: a valid safetensors file whose blocks are aligned and checksummed.

Pieces are uint8 or float32 tensors in a fixed order; `padding.N` tensors fill the gaps before aligned
ones, and the last tensor, `checksums`, holds the CRC-32 of every piece in order. The writer knows the
whole layout before the first byte, writes piece by piece to `.partial`, never through a map, and gives
the file its name only when it is whole and on disk. Knows no model.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ModelFileError, OutputError
from edge_lfm.formats.safetensors import SafetensorsFile, header_bytes

CHECKSUMS = "checksums"
_PADDING = "padding."


@dataclass(frozen=True)
class Slot:
    """One piece to be written: `dtype` is U8 or F32, `alignment` the multiple that its offset must be."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    alignment: int = 64

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * (4 if self.dtype == "F32" else 1)


class PackedWriter:
    """Writes one file; a context manager: leaving it normally finishes the file, an exception removes it.

    Raises:
        OutputError: the disk is full, permission is missing, or a write fails.
    """

    def __init__(self, path: Path, slots: Sequence[Slot], metadata: dict[str, str]) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.slots = list(slots)
        self._header, self._offsets, self.size = _layout(self.slots, metadata)
        self._checksums = np.zeros(len(self.slots), np.uint32)
        self._written = 0
        try:
            self._file = os.open(self.partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.posix_fallocate(self._file, 0, self.size)  # a full disk shows now, not in an hour
                self._write(self._header, 0)
            except BaseException:
                self._abandon()
                raise
        except OSError as error:
            raise self._failure(error) from None

    def write(self, data: NDArray[Any]) -> None:
        """Write the next piece; its bytes must be exactly those of its slot."""
        slot = self.slots[self._written]
        raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        assert raw.nbytes == slot.nbytes, f"{slot.name}: {raw.nbytes} bytes for a slot of {slot.nbytes}"
        self._checksums[self._written] = zlib.crc32(raw.data)
        try:
            self._write(raw.data, self._offsets[self._written])
        except OSError as error:
            raise self._failure(error) from None
        self._written += 1

    def finish(self) -> None:
        """Write the checksums, flush to disk, and give the file its name."""
        assert self._written == len(self.slots), "not every piece was written"
        try:
            self._write(self._checksums.view(np.uint8).data, self.size - self._checksums.nbytes)
            os.fsync(self._file)
            # Written pages stay in the cache as small ones; read anew they come in 2 MB pages (memory/prefault.py).
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(self._file)
            self._file = -1
            os.rename(self.partial, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise self._failure(error) from None

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.finish()
            except BaseException:
                self._abandon()
                raise
        else:
            self._abandon()

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file, view[: 1 << 26], offset)
            view, offset = view[count:], offset + count

    def _abandon(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.partial.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> OutputError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return OutputError(f"{self.path}: no room for {self.size / 1e9:.2f} GB", hint="free some disk space")
        return OutputError(f"{self.path} cannot be written: {error.strerror}", hint="check the folder's permissions")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def packed_size(slots: Sequence[Slot]) -> int:
    """Bytes of the finished file."""
    return _layout(slots, {})[2]


def _layout(slots: Sequence[Slot], metadata: dict[str, str]) -> tuple[bytes, list[int], int]:
    """Header, file offset of each slot, size of the file.

    Offsets inside the file depend on the header's length, which is a multiple of every alignment.
    """
    multiple = max(slot.alignment for slot in slots)
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    at = 0
    indices = []
    for slot in slots:
        gap = -at % slot.alignment
        if gap:
            tensors.append((f"{_PADDING}{len(tensors)}", "U8", (gap,)))
        indices.append(len(tensors))
        tensors.append((slot.name, slot.dtype, slot.shape))
        at += gap + slot.nbytes
    if at % 4:
        tensors.append((f"{_PADDING}{len(tensors)}", "U8", (-at % 4,)))
        at += -at % 4
    tensors.append((CHECKSUMS, "U32", (len(slots),)))
    header, offsets = header_bytes(tensors, metadata, multiple)
    return header, [offsets[i] for i in indices], len(header) + at + 4 * len(slots)


class PackedFile:
    """An open packed file: pieces by name, as views of the map; a context manager.

    Raises:
        ModelFileError: the file is missing, truncated or malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = SafetensorsFile(path)
        if CHECKSUMS not in self.file.tensors:
            self.close()
            raise ModelFileError(
                f"{path} has no checksums: it was not packed by edge-lfm",
                hint="run edge-lfm quantize on the checkpoint first",
            )
        self.pieces = [t for t in self.file.tensors.values() if not t.name.startswith(_PADDING) and t.name != CHECKSUMS]

    def piece(self, name: str, dtype: str, nbytes: int) -> NDArray[np.uint8]:
        """The bytes of a piece, checked to have this dtype and size."""
        info = self.file.tensors.get(name)
        if info is None:
            raise ModelFileError(f"{self.path}: {name} is missing", hint="quantize the model again")
        if info.dtype != dtype or info.nbytes != nbytes:
            raise ModelFileError(
                f"{self.path}: {name} has {info.nbytes} bytes of {info.dtype}, "
                f"config.json asks for {nbytes} of {dtype}",
                hint="quantize the model again",
            )
        return self.file.bytes_of(info)

    def verify(self, name: str) -> bool:
        """Whether the bytes of a piece still have their checksum."""
        return zlib.crc32(self.file.bytes_of(self.file.tensors[name]).data) == self._checksums[name]

    @cached_property
    def _checksums(self) -> dict[str, int]:
        values = self.file.read(CHECKSUMS)
        if len(values) != len(self.pieces):
            raise ModelFileError(
                f"{self.path} has {len(values)} checksums for {len(self.pieces)} pieces",
                hint="quantize the model again",
            )
        return {info.name: int(value) for info, value in zip(self.pieces, values, strict=True)}

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
