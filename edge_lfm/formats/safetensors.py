"""Reading safetensors files through a memory map, one tensor at a time; and writing their headers.

The format: 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes without
holes. Every offset is checked against the file before anything is touched. Knows no tensor names. A name
is never used as a path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ModelFileError
from edge_lfm.formats.file_map import FileMap
from edge_lfm.formats.strict import parse_json, refusing

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_MAX_DIMENSIONS = 8
_ITEM_BYTES = {
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "F64": 8,
    "I8": 1,
    "U8": 1,
    "F8_E4M3": 1,
    "BOOL": 1,
    "I16": 2,
    "U16": 2,
    "I32": 4,
    "U32": 4,
    "I64": 8,
    "U64": 8,
}
_NUMPY = {
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
    "U8": np.uint8,
    "F8_E4M3": np.uint8,
    "U32": np.uint32,
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: bytes [start, end) of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start


class SafetensorsFile(FileMap):
    """An open, mapped file; a context manager.

    Raises:
        ModelFileError: the file is missing, truncated, or not a valid safetensors file.
    """

    KIND = "safetensors"

    def __init__(self, path: Path) -> None:
        super().__init__(path, least_bytes=8)
        try:
            with refusing(str(path)):
                self.tensors, self.metadata = self._read_header()
        except ModelFileError:
            self.close()
            raise

    def bytes_of(self, info: TensorInfo) -> NDArray[np.uint8]:
        """The tensor's bytes, a view of the map."""
        return self.view(info.start, info.nbytes)

    def stored(self, name: str, index: int | None = None) -> NDArray[Any]:
        """A tensor as it is stored, BF16 as uint16, F8_E4M3 as uint8: a view of the map.

        `index` reads one entry along the first axis and touches no other byte.

        Raises:
            ModelFileError: there is no such tensor, or its dtype is not supported.
        """
        info = self.tensors.get(name)
        if info is None:
            raise ModelFileError(f"{self.path}: tensor {name} is missing", hint="is the checkpoint complete?")
        if info.dtype not in _NUMPY:
            raise ModelFileError(
                f"{self.path}: tensor {name} has dtype {info.dtype}",
                hint="weights must be BF16, F16 or F32; quantize from the original checkpoint",
            )
        raw, shape = self.bytes_of(info), info.shape
        if index is not None:
            raw, shape = raw.reshape(shape[0], -1)[index], shape[1:]
        return raw.view(_NUMPY[info.dtype]).reshape(shape)

    def read(self, name: str, index: int | None = None) -> NDArray[Any]:
        """A tensor as float32 (from BF16, F16, F32) or as stored (U8, U32); a copy only where it must be.

        Arguments and errors as in `stored`.
        """
        values = self.stored(name, index)
        if values.dtype == np.uint16:
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32) if values.dtype == np.float16 else values

    def header(self) -> bytes:
        """All bytes before the first tensor's."""
        return self.read_range(0, min((info.start for info in self.tensors.values()), default=self.size))

    def sample(self) -> bytes:
        """The header, and a few bytes of every tensor."""
        return self.header() + b"".join(
            self.read_range(t.start, min(t.start + 64, t.end)) for t in self.tensors.values()
        )

    def forget(self, info: TensorInfo, index: int | None = None) -> None:
        """Tell the kernel that these pages are not needed again (keeps resident memory low); `index` as in `stored`."""
        first, last = info.start, info.end
        if index is not None:
            size = info.nbytes // info.shape[0]
            first, last = info.start + index * size, info.start + (index + 1) * size
        self.forget_range(first, last)

    def _read_header(self) -> tuple[dict[str, TensorInfo], dict[str, str]]:
        length = int.from_bytes(self.read_range(0, 8), "little")
        if self.size < 1024 and self.read_range(0, self.size).startswith(b"version https://git-lfs"):
            raise self.broken("it is a pointer of Git LFS, in place of the file that it stands for")
        if length > min(MAX_HEADER_BYTES, self.size - 8):
            raise self.broken(f"its header claims {length} bytes, the file has {self.size}")
        try:
            header = parse_json(self.read_range(8, 8 + length))
        except ValueError as error:
            raise self.broken(f"its header is not JSON ({error})") from None
        if not isinstance(header, dict):
            raise self.broken("its header is not a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self.broken("its metadata are not texts by name")
        tensors = {name: self._info(name, entry, 8 + length) for name, entry in header.items()}
        at = 8 + length
        for info in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
            if info.start != at:
                raise self.broken(f"tensor {info.name!r:.80} starts at byte {info.start}, expected {at}")
            at = info.end
        if at != self.size:
            raise self.broken(f"its tensors end at byte {at}, the file has {self.size}: truncated?")
        return tensors, metadata

    def _info(self, name: str, entry: Any, base: int) -> TensorInfo:
        try:
            dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise self.broken(f"the entry of tensor {name!r:.80} is malformed") from None
        numbers = (*shape, first, last)
        if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
            raise self.broken(f"the entry of tensor {name!r:.80} has a number that is none, or too many of them")
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            raise self.broken(f"tensor {name!r:.80} has the unknown dtype {dtype!r:.20}")
        items = 1
        for n in shape:
            items *= n
        if base + last > self.size:
            raise self.broken(f"it ends at byte {self.size}, before the end of tensor {name!r:.80}, byte {base + last}")
        if last - first != items * _ITEM_BYTES[dtype]:
            needed = items * _ITEM_BYTES[dtype]
            raise self.broken(
                f"tensor {name!r:.80} has {last - first} bytes at {first}..{last}, its shape needs {needed}"
            )
        return TensorInfo(name, dtype, shape, base + first, base + last)


def header_bytes(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str], multiple: int = 8
) -> tuple[bytes, list[int]]:
    """The first bytes of a file with these (name, dtype, shape) tensors in order, and each one's file offset.

    The header is padded with spaces to a multiple of `multiple` bytes in all.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, at = [], 0
    for name, dtype, shape in tensors:
        size = math.prod(shape) * _ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        offsets.append(at)
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % multiple)
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + offset for offset in offsets]
