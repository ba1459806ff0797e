"""Reading GGUF files through a memory map: metadata as Python values, tensors as stored blocks or as float32.

The format: magic, version, counts, key-value pairs, tensor entries, then tensors at aligned offsets. The header is
read here and not by the package `gguf`, whose reader believes every count (an array that claims 2**60 numbers is read
number by number); the blocks are decoded by that package. Knows no names of keys and tensors.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import MissingExtraError, UnsupportedModelError
from edge_lfm.formats import mxfp4
from edge_lfm.formats.file_map import FileMap
from edge_lfm.formats.strict import refusing

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 63  # ggml's own limit of a tensor's name
_MAX_HEADER_BYTES = 256 << 20  # a vocabulary of 256,000 tokens with merges has 12 MB
_NAME = re.compile("[!-~]+")
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: `kind` is ggml's name of its block type, `shape` in NumPy's order, bytes [start, start + nbytes)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    def part(self, index: int | None) -> GgufTensor:
        """The tensor, or one entry along its first axis."""
        if index is None:
            return self
        size = self.nbytes // self.shape[0]
        return GgufTensor(self.name, self.kind, self.shape[1:], self.start + index * size, size)


class GgufFile(FileMap):
    """An open, mapped file; a context manager.

    Raises:
        ModelFileError: the file is missing, truncated, or not a valid GGUF file.
        UnsupportedModelError: its version, or the type of a tensor, is not known.
        MissingExtraError: the package gguf is not installed.
    """

    KIND = "GGUF"

    def __init__(self, path: Path) -> None:
        super().__init__(path, least_bytes=24)
        try:
            self._sizes = {int(k): (k.name, *v) for k, v in gguf_package().GGML_QUANT_SIZES.items()}
            with refusing(str(path)):
                self.metadata, self.tensors = _HeaderReader(self, self._sizes).read()
        except BaseException:
            self.close()
            raise

    def raw(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The tensor's bytes, a view of the map."""
        return self.view(tensor.start, tensor.nbytes)

    def stored(self, tensor: GgufTensor) -> NDArray[Any]:
        """Floats as they are stored (BF16 as uint16), a view; quantized blocks as float32.

        Raises:
            UnsupportedModelError: nobody can decode this type.
        """
        raw = self.raw(tensor)
        if tensor.kind in _FLOATS:
            return raw.view(_FLOATS[tensor.kind]).reshape(tensor.shape)
        if tensor.kind == mxfp4.KIND:  # the package takes an exponent of 255, which is none, for a number
            return mxfp4.values(raw.reshape(*tensor.shape[:-1], -1))
        gguf = gguf_package()
        kind = gguf.GGMLQuantizationType[tensor.kind]
        rows = raw.reshape(int(np.prod(tensor.shape[:-1])), -1)
        try:
            values: NDArray[np.float32] = gguf.quants.dequantize(rows, kind)
        except NotImplementedError:
            raise UnsupportedModelError(
                f"{self.path}: tensor {tensor.name} has the type {tensor.kind}, which cannot be read",
                hint="use a file in F16, BF16, Q8_0, Q6_K, Q4_K or Q4_0",
            ) from None
        return values.reshape(tensor.shape)

    @cached_property
    def data_start(self) -> int:
        """Where the first tensor begins."""
        return min((t.start for t in self.tensors.values()), default=self.size)

    def sample(self) -> bytes:
        """The header, and a few bytes of every tensor."""
        parts = [self.raw(t)[:64].tobytes() for t in self.tensors.values()]
        return self.view(0, self.data_start).tobytes() + b"".join(parts)


class _HeaderReader:
    """Reads values one after the other, each checked against the end of the file before it is touched."""

    def __init__(self, file: GgufFile, sizes: dict[int, tuple[str, int, int]]) -> None:
        self.file, self.sizes, self.at = file, sizes, 0
        self.data = file.view(0, min(file.size, _MAX_HEADER_BYTES)).data

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        if self.take(4) != MAGIC:
            raise self.file.broken("it does not begin with GGUF")
        version = self.scalar("I")
        if version not in _VERSIONS:
            other_end = int.from_bytes(struct.pack("<I", version), "big") in _VERSIONS
            raise UnsupportedModelError(
                f"{self.file.path} is {'big-endian' if other_end else f'of GGUF version {version}'}",
                hint="versions 2 and 3, little-endian, can be read",
            )
        tensors, pairs = self.count("tensors", 24), self.count("keys", 13)
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.string()
            if key in metadata:
                raise self.file.broken(f"the key {key!r:.80} stands twice")
            metadata[key] = self.value(self.scalar("I"))
        if not isinstance(metadata.get("general.architecture", ""), str):
            raise self.file.broken("its architecture is no text")
        entries = [self.entry() for _ in range(tensors)]
        tensors_by_name = self.place(entries, metadata.get("general.alignment", 32))
        self.check_overlaps(tensors_by_name.values())
        return metadata, tensors_by_name

    def take(self, nbytes: int) -> bytes:
        if nbytes > len(self.data) - self.at:
            raise self.file.broken(f"it ends at byte {len(self.data)}, in the middle of its header: truncated?")
        self.at += nbytes
        return bytes(self.data[self.at - nbytes : self.at])

    def scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, what: str, least_bytes: int) -> int:
        """A number of things that take so many bytes at least; more of them than the file can hold is a lie."""
        number: int = self.scalar("Q")
        if number > (len(self.data) - self.at) // least_bytes:
            raise self.file.broken(f"it claims {number} {what}, more than its {len(self.data)} bytes can hold")
        return number

    def string(self) -> str:
        raw = self.take(self.count("characters", 1))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.file.broken(f"a text at byte {self.at - len(raw)} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise self.file.broken(f"a value at byte {self.at} has the unknown type {kind}")
        item: int = self.scalar("I")
        if item == _STRING:
            return [self.string() for _ in range(self.count("texts", 8))]
        if item not in _SCALARS:  # arrays of arrays are allowed by the format, and used by no model
            raise self.file.broken(f"an array at byte {self.at} has items of the type {item}")
        size = struct.calcsize(f"<{_SCALARS[item]}")
        count = self.count("numbers", size)
        return list(struct.unpack(f"<{count}{_SCALARS[item]}", self.take(count * size)))

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape in NumPy's order, type and offset of a tensor."""
        name, dimensions = self.string(), self.scalar("I")
        if len(name) > _MAX_NAME_BYTES or not _NAME.fullmatch(name):
            raise self.file.broken(f"a tensor is called {name!r:.80}, which is no name")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self.file.broken(f"tensor {name!r:.80} has {dimensions} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))[::-1]
        return name, shape, self.scalar("I"), self.scalar("Q")

    def place(self, entries: list[tuple[str, tuple[int, ...], int, int]], alignment: Any) -> dict[str, GgufTensor]:
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self.file.broken(f"its alignment is {alignment!r}, expected a power of 2 of at least 8")
        base, tensors = self.at + -self.at % alignment, {}
        for name, shape, type_id, offset in entries:
            if type_id not in self.sizes:
                raise UnsupportedModelError(
                    f"{self.file.path}: tensor {name!r:.80} has the unknown type {type_id}",
                    hint="update the package gguf, or use a file in F16, BF16, Q8_0, Q6_K, Q4_K or Q4_0",
                )
            kind, block, block_bytes = self.sizes[type_id]
            items = 1
            for n in shape:
                items *= n
            if not items or shape[-1] % block:
                raise self.file.broken(f"tensor {name!r:.80} of {kind} has the shape {list(shape)}")
            nbytes = items // block * block_bytes
            if offset % alignment or base + offset + nbytes > self.file.size:
                raise self.file.broken(
                    f"tensor {name!r:.80} has {nbytes} bytes at {base + offset}, the file {self.file.size}: truncated?"
                )
            if name in tensors:
                raise self.file.broken(f"tensor {name!r:.80} stands twice")
            tensors[name] = GgufTensor(name, kind, shape, base + offset, nbytes)
        return tensors

    def check_overlaps(self, tensors: Iterable[GgufTensor]) -> None:
        """Bytes belong to one tensor: else a small file would stand for gigabytes of weights."""
        end = 0
        for tensor in sorted(tensors, key=lambda t: t.start):
            if tensor.start < end:
                raise self.file.broken(f"tensor {tensor.name!r} begins within the one before it")
            end = tensor.start + tensor.nbytes


def gguf_package() -> ModuleType:
    """The package gguf.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("GGUF files need the package gguf", extra="gguf") from None
    return gguf


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its first bytes or, where it has none, its name."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC or path.suffix == ".gguf"
    except (OSError, ValueError):  # the latter: a name that no file can have
        return path.suffix == ".gguf"
