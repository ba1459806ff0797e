"""A packed model folder: its config, its schemes, and every tensor as bytes that kernels can use in place.

Knows files and names; does not know how a step runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.architectures import read_shape
from edge_lfm.architectures.dspark import is_drafter
from edge_lfm.errors import ModelFileError
from edge_lfm.formats.file_list import check_unchanged
from edge_lfm.formats.packed import PackedFile
from edge_lfm.formats.strict import read_json
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS, Scheme
from edge_lfm.kernels.spec.tiles import unpack_tiles
from edge_lfm.model.plan import (
    EXPERT_CLASS,
    OPTIONAL_CLASSES,
    TENSOR_CLASSES,
    Matrix,
    PackedTensor,
    Schemes,
    plan_tensors,
)
from edge_lfm.shape import Shape


def is_packed(folder: Path) -> bool:
    """Whether a folder's config says that edge-lfm packed it."""
    quantization = read_json(folder / "config.json").get("quantization_config")
    return isinstance(quantization, Mapping) and quantization.get("quant_method") == "edge_lfm"


class PackedModel:
    """An open packed model; a context manager.

    Raises:
        ModelFileError: the folder is not a packed model, or its file does not hold what the config asks for.
        UnsupportedModelError: the config asks for something that is not implemented.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise ModelFileError(f"{folder} {what}", hint="give the folder that edge-lfm quantize made")
        raw = read_json(folder / "config.json")
        check_unchanged(folder / "config.json")
        self.shape = self._describe(raw, folder / "config.json")
        self.schemes = _read_schemes(raw.get("quantization_config"), folder)
        provenance = raw.pop("quantization_config").get("provenance", {})
        self.raw_config = raw
        """What the checkpoint's own config said."""
        self.provenance: dict[str, Any] = provenance if isinstance(provenance, dict) else {}
        tensors = self._plan(self.schemes)
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.file = PackedFile(folder / "model.safetensors")
        self._trunk: NDArray[np.uint8] | None = None
        try:
            for tensor in tensors:
                self.bytes_of(tensor.name)
        except ModelFileError:
            self.close()
            raise

    def _describe(self, raw: Mapping[str, Any], where: Path) -> Shape:
        if is_drafter(raw):
            raise ModelFileError(f"{self.folder} is a drafter", hint="load the model that it is for, with draft")
        return read_shape(raw, str(where))

    def _plan(self, schemes: Schemes) -> list[PackedTensor]:
        return plan_tensors(self.shape, schemes)

    @property
    def nbytes(self) -> int:
        return self.file.file.size

    @property
    def span(self) -> tuple[int, int]:
        """Address and bytes of the mapped file."""
        return self.file.file.span

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that tell this model's weights from others: of its header and all of its checksums."""
        return self.file.fingerprint()

    def has(self, name: str) -> bool:
        return name in self.tensors

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """A tensor's bytes, a view of the map, or of the copy of the trunk."""
        tensor = self.tensors[name]
        if self._trunk is not None and tensor.kind != EXPERT_CLASS:
            first = self.offset_of(name)
            return self._trunk[first : first + tensor.nbytes]
        return self.file.tensor(name, "F32" if tensor.floats else "U8", tensor.nbytes)

    def forget(self, name: str) -> None:
        """Let go of a tensor's pages in memory; what is read again comes from the file."""
        self.file.file.forget(self.file.file.tensors[name])

    def offset_of(self, name: str) -> int:
        """Where a tensor begins in the file."""
        return self.file.file.tensors[name].start

    @property
    def trunk_bytes(self) -> int:
        """Bytes of the file before the first expert: all that every token needs."""
        experts = [name for name, tensor in self.tensors.items() if tensor.kind == EXPERT_CLASS]
        return min((self.offset_of(name) for name in experts), default=self.nbytes)

    def use_trunk(self, copy: NDArray[np.uint8]) -> None:
        """From now on, give out everything but experts from a copy of the file's first `trunk_bytes` bytes."""
        self._trunk = copy

    def floats(self, name: str) -> NDArray[np.float32]:
        """A float32 tensor in its shape."""
        source = self.tensors[name].floats
        assert source is not None
        return self.bytes_of(name).view(np.float32).reshape(source.shape)

    def verify(self, advance: Callable[[int], object] = lambda _bytes: None) -> list[str]:
        """The names of what is not as it was written: tensors by their checksums, and the padding between them.

        `advance` is called with the bytes of each tensor.
        """
        broken = self.file.broken_padding()
        for name, tensor in self.tensors.items():
            if not self.file.verify(name):
                broken.append(name)
            advance(tensor.nbytes)
        return broken

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> PackedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UnpackedWeights:
    """The weights of a packed model by their canonical checkpoint names, for the NumPy reference.

    `integers`: quantized matrices as integers and scales (so that the reference also quantizes the
    activations, as kernels do); otherwise as float32.
    """

    def __init__(self, model: PackedModel, integers: bool) -> None:
        self.model, self.integers = model, integers
        self._places: dict[str, tuple[PackedTensor, Matrix | None]] = {}
        self._biases: dict[str, PackedTensor] = {}
        for tensor in model.tensors.values():
            if tensor.floats is not None:
                self._places[tensor.floats.name] = (tensor, None)
            for matrix in tensor.matrices:
                self._places |= {source.name: (tensor, matrix) for source in matrix.sources}
            self._biases |= {source.name: tensor for source in tensor.biases}

    def __call__(self, name: str) -> F32 | Quantized:
        if name in self._biases:
            return self._bias(self._biases[name], name)
        tensor, matrix = self._places[name]
        if matrix is None:
            return self.model.floats(tensor.name)
        first = 0
        for other in tensor.matrices:
            if other is matrix:
                packed = self.model.bytes_of(tensor.name)[first : first + matrix.nbytes]
                break
            first += other.nbytes
        values = _unpack(packed, matrix, SCHEMES[matrix.scheme], name)
        return values.values() if isinstance(values, Quantized) and not self.integers else values

    def _bias(self, tensor: PackedTensor, name: str) -> F32:
        """A bias of a block: those of w1 and w3 stand 16 in turn, that of w2 behind them."""
        numbers = self.model.bytes_of(tensor.name)[tensor.bias_offset :].view(np.float32)
        names = [source.name for source in tensor.biases]
        width = tensor.biases[0].shape[0]
        in_turn = numbers[: 2 * width].reshape(-1, 2, TILE_ROWS)
        which = names.index(name)
        return numbers[2 * width :] if which == 2 else np.ascontiguousarray(in_turn[:, which]).reshape(-1)


def _unpack(packed: NDArray[np.uint8], matrix: Matrix, scheme: Scheme, name: str) -> F32 | Quantized:
    names = [source.name for source in matrix.sources]
    which = names.index(name)
    if matrix.interleave:
        tiles = matrix.sources[0].shape[0] // 16
        mine = np.ascontiguousarray(packed.reshape(tiles, len(names), -1)[:, which]).reshape(-1)
        return unpack_tiles(mine, scheme, tiles * 16, matrix.cols)
    whole = unpack_tiles(packed, scheme, matrix.rows, matrix.cols)
    first = sum(source.shape[0] for source in matrix.sources[:which])
    rows = slice(first, first + matrix.sources[which].shape[0])
    return Quantized(whole.q[rows], whole.scale[rows]) if isinstance(whole, Quantized) else whole[rows]


def _read_schemes(raw: Any, folder: Path) -> Schemes:
    where = f"{folder / 'config.json'}: quantization_config"
    if not isinstance(raw, Mapping) or raw.get("quant_method") != "edge_lfm":
        raise ModelFileError(
            f"{folder} is not a packed model", hint=f"pack it first: edge-lfm quantize {folder} -o OUT"
        )
    if raw.get("layout_version") != LAYOUT_VERSION:
        raise ModelFileError(
            f"{where} has layout_version {raw.get('layout_version')!r}, this edge-lfm reads {LAYOUT_VERSION}",
            hint="quantize the model again, or install the matching edge-lfm",
        )
    by_class = raw.get("schemes")
    known = {*TENSOR_CLASSES, *OPTIONAL_CLASSES}
    if (
        not isinstance(by_class, Mapping)
        or not set(TENSOR_CLASSES) <= by_class.keys() <= known
        or any(name not in tuple(SCHEMES) for name in by_class.values())
    ):
        raise ModelFileError(
            f"{where} has the schemes {by_class!r}, this edge-lfm knows {', '.join(SCHEMES)}",
            hint="quantize the model again, or install a newer edge-lfm",
        )
    return Schemes(str(raw.get("recipe")), dict(by_class))
