"""The packed model's weight file: a valid safetensors file whose blocks are aligned and checksummed.

Tensors are uint8 or float32 and stand in a fixed order; `padding.N` tensors fill the gaps before aligned
ones, and the last tensor, `checksums`, holds the CRC-32 of every tensor in order. The writer knows the
whole layout before the first byte, writes tensors in any order, never through a map, and writes the header last,
when all else is on disk: a file that is not whole is no safetensors file. Knows no model.
"""

from __future__ import annotations

import errno
import hashlib
import math
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
class TensorSpec:
    """One tensor to be written: `dtype` is U8 or F32, `alignment` the multiple that its offset must be."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    alignment: int = 64

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (4 if self.dtype == "F32" else 1)


class PackedWriter:
    """Writes one file; a context manager: leaving it normally finishes the file, an exception leaves it unfinished.

    `write` may be called from several threads. `resume`: keep the bytes of an unfinished file.

    Raises:
        OutputError: the disk is full, permission is missing, or a write fails.
    """

    def __init__(self, path: Path, specs: Sequence[TensorSpec], metadata: dict[str, str], resume: bool = False) -> None:
        self.path, self.specs = path, list(specs)
        self._header, self._offsets, self.size = _layout(self.specs, metadata)
        self._checksums = np.zeros(len(self.specs), np.uint32)
        self._done = np.zeros(len(self.specs), bool)
        existed = path.exists()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | (0 if resume else os.O_TRUNC), 0o644)
            try:
                os.posix_fallocate(self._file, 0, self.size)  # a full disk shows now, not in an hour
                os.ftruncate(self._file, self.size)
                self._write(bytes(min(len(self._header), 4096)), 0)
            except BaseException:
                self.close()
                if not existed:
                    path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._failure(error) from None

    def write(self, index: int, *pieces: NDArray[Any]) -> int:
        """Write tensor `index`, in pieces; its bytes must be exactly as many as its spec says. Returns its checksum."""
        spec, at, checksum = self.specs[index], self._offsets[index], 0
        parts = [np.ascontiguousarray(piece).view(np.uint8).reshape(-1) for piece in pieces]
        nbytes = sum(part.nbytes for part in parts)
        assert nbytes == spec.nbytes, f"{spec.name}: {nbytes} bytes for a tensor of {spec.nbytes}"
        try:
            for part in parts:
                self._write(part.data, at)
                at, checksum = at + part.nbytes, zlib.crc32(part.data, checksum)
        except OSError as error:
            raise self._failure(error) from None
        self._checksums[index], self._done[index] = checksum, True
        return checksum

    def accept(self, index: int, checksum: int) -> bool:
        """Take tensor `index` as written before, if its bytes in the file have this checksum."""
        try:
            actual = zlib.crc32(os.pread(self._file, self.specs[index].nbytes, self._offsets[index]))
        except OSError as error:
            raise self._failure(error) from None
        self._checksums[index], self._done[index] = checksum, actual == checksum
        return actual == checksum

    def flush(self) -> None:
        """Wait until all that was written is on disk."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise self._failure(error) from None

    def finish(self) -> None:
        """Write the checksums, then, when they and all tensors are on disk, the header."""
        assert self._done.all(), "not every tensor was written"
        try:
            self._write(self._checksums.view(np.uint8).data, self.size - self._checksums.nbytes)
            os.fsync(self._file)
            self._write(self._header, 0)
            os.fsync(self._file)
            # Written pages stay in the cache as small ones; read anew they come in 2 MB pages (memory/prefault.py).
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise self._failure(error) from None
        self.close()

    def close(self) -> None:
        """Close the file as it is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file, view[: 1 << 26], offset)
            view, offset = view[count:], offset + count

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


def packed_layout(specs: Sequence[TensorSpec]) -> tuple[list[int], int]:
    """Where each tensor begins in the finished file, and the bytes of the file."""
    _, offsets, size = _layout(specs, {})
    return offsets, size


def _layout(specs: Sequence[TensorSpec], metadata: dict[str, str]) -> tuple[bytes, list[int], int]:
    """Header, file offset of each spec, size of the file.

    Offsets inside the file depend on the header's length, which is a multiple of every alignment.
    """
    multiple = max(spec.alignment for spec in specs)
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    at = 0
    indices = []
    for spec in specs:
        gap = -at % spec.alignment
        if gap:
            tensors.append((f"{_PADDING}{len(tensors)}", "U8", (gap,)))
        indices.append(len(tensors))
        tensors.append((spec.name, spec.dtype, spec.shape))
        at += gap + spec.nbytes
    if at % 4:
        tensors.append((f"{_PADDING}{len(tensors)}", "U8", (-at % 4,)))
        at += -at % 4
    tensors.append((CHECKSUMS, "U32", (len(specs),)))
    header, offsets = header_bytes(tensors, metadata, multiple)
    return header, [offsets[i] for i in indices], len(header) + at + 4 * len(specs)


class PackedFile:
    """An open packed file: tensors by name, as views of the map; a context manager.

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
        self.tensors = [
            t for t in self.file.tensors.values() if not t.name.startswith(_PADDING) and t.name != CHECKSUMS
        ]

    def tensor(self, name: str, dtype: str, nbytes: int) -> NDArray[np.uint8]:
        """The bytes of a tensor, checked to have this dtype and size."""
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

    def fingerprint(self) -> str:
        """32 hex digits of the header (names, shapes, metadata) and the checksums of all tensors."""
        digest = hashlib.sha256(self.file.header())
        digest.update(self.file.read(CHECKSUMS).tobytes())
        return digest.hexdigest()[:32]

    def verify(self, name: str) -> bool:
        """Whether the bytes of a tensor still have their checksum."""
        return zlib.crc32(self.file.bytes_of(self.file.tensors[name]).data) == self._checksums[name]

    def broken_padding(self) -> list[str]:
        """The names of the gaps between tensors that are not all zero."""
        gaps = [info for info in self.file.tensors.values() if info.name.startswith(_PADDING)]
        return [info.name for info in gaps if self.file.bytes_of(info).any()]

    @cached_property
    def _checksums(self) -> dict[str, int]:
        values = self.file.read(CHECKSUMS)
        if len(values) != len(self.tensors):
            raise ModelFileError(
                f"{self.path} has {len(values)} checksums for {len(self.tensors)} tensors",
                hint="quantize the model again",
            )
        return {info.name: int(value) for info, value in zip(self.tensors, values, strict=True)}

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
