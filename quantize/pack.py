"""Turning the tensors of a plan into packed bytes, with the error that rounding left.

Weights come as they are stored; the compiled encoder widens, searches and packs them. Safe to call from several
threads; the bytes depend on nothing but the weights, the recipe and the calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from edge_lfm.errors import ModelFileError, UnsupportedModelError
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.spec.layout import BFLOAT16, FLOAT16, SCALE_TOO_LARGE, WEIGHTS_NOT_FINITE, encode_scratch_bytes
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS, Scheme
from edge_lfm.kernels.spec.tiles import pack_tiles
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import Matrix, PackedTensor, Source
from edge_lfm.quantize.recipe import Recipe

_ROWS_AT_A_TIME = 2048
"""Rows that are encoded by one call: long enough for a call to cost nothing, short enough for Ctrl-C."""
_HASHED_AT_A_TIME = 1 << 24
"""Bytes."""

_DTYPE_IDS = {np.dtype(np.uint16): BFLOAT16, np.dtype(np.float16): FLOAT16, np.dtype(np.float32): 0}


@dataclass
class ErrorSum:
    """Squared error and squared weights, summed."""

    error: float = 0.0
    signal: float = 0.0

    def add(self, error: float, signal: float) -> None:
        self.error, self.signal = self.error + error, self.signal + signal

    @property
    def relative_rmse(self) -> float:
        """Root mean square error over root mean square weight."""
        return float((self.error / self.signal) ** 0.5) if self.signal else 0.0


@dataclass(frozen=True)
class Packed:
    """The bytes of one tensor (uint8, or float32 for arrays), its rounding error, and the hashes of its sources."""

    data: NDArray[Any]
    error: ErrorSum
    sources: tuple[str, ...]


class NotFiniteError(Exception):
    """Weights hold NaN or infinity; whoever knows the tensor's name says so."""


Encode = Callable[[str, NDArray[Any], Scheme], tuple[NDArray[np.uint8], ErrorSum]]
"""`(name, values, scheme)`: a source's weights as they are stored -> packed tiles, and what rounding left."""


def pack_tensor(
    tensor: PackedTensor,
    weights: CheckpointWeights,
    recipe: Recipe,
    kernels: Kernels,
    importance: Mapping[str, F32],
    encode_source: Encode | None = None,
) -> Packed:
    """Pack one tensor.

    Args:
        importance: by tensor name, the mean square of each input column, float32 [cols].
        encode_source: called for the tensor's sources in turn; default: `encode`.

    Raises:
        EdgeLfmError: weights are not finite or beyond the scheme, by tensor name.
    """
    if tensor.floats is not None:
        values = np.ascontiguousarray(weights(tensor.floats.name))
        return Packed(values, ErrorSum(signal=float(np.vdot(values, values))), (_hash(weights, tensor.floats),))
    total = ErrorSum()

    def searched(name: str, values: NDArray[Any], scheme: Scheme) -> tuple[NDArray[np.uint8], ErrorSum]:
        passed = partial(weights.forget_bytes, name)
        return encode(values, scheme, kernels, recipe.plain, importance.get(name), passed)

    parts = [_pack_matrix(matrix, weights, encode_source or searched, total) for matrix in tensor.matrices]
    if tensor.biases:
        parts.append(pack_biases(*(weights(source.name) for source in tensor.biases)))
    return Packed(_joined(parts), total, tuple(_hash(weights, source) for source in tensor.sources))


def encode(
    values: NDArray[Any],
    scheme: Scheme,
    kernels: Kernels,
    plain: bool = False,
    importance: F32 | None = None,
    passed: Callable[[int, int], object] = lambda _first, _last: None,
) -> tuple[NDArray[np.uint8], ErrorSum]:
    """Weights [rows, cols] (uint16: bfloat16; float16; float32) as packed tiles.

    passed: called with the first and the last byte of rows that are not read again.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
        ModelFileError: `importance` is not float32 [cols].
        UnsupportedModelError: a scale is beyond float16.
    """
    rows, cols = values.shape
    padded = -(-rows // TILE_ROWS) * TILE_ROWS
    values = np.ascontiguousarray(values if padded == rows else np.pad(values, ((0, padded - rows), (0, 0))))
    if not scheme.quantized:
        exact = floats(values)
        if not np.isfinite(exact).all():
            raise NotFiniteError
        return pack_tiles(exact, scheme), ErrorSum(0.0, float(np.vdot(exact, exact)))
    weight = None if importance is None else np.ascontiguousarray(importance, np.float32)
    if weight is not None and weight.shape != (cols,):  # compiled code reads `cols` of them
        raise ModelFileError(
            f"an importance has the shape {list(weight.shape)}, its matrix {cols} columns", hint="calibrate again"
        )
    out = np.empty(scheme.matrix_bytes(rows, cols), np.uint8)
    scratch = np.empty(encode_scratch_bytes(cols), np.uint8)
    total = ErrorSum()
    for first in range(0, padded, _ROWS_AT_A_TIME):
        part = values[first : first + _ROWS_AT_A_TIME]
        tiles = len(part) // TILE_ROWS
        errors = np.empty((tiles, 2, TILE_ROWS), np.float32)
        status = kernels.encode_rows(
            scheme.id,
            int(plain),
            _DTYPE_IDS[part.dtype],
            part.ctypes.data,
            0 if weight is None else weight.ctypes.data,
            tiles,
            cols,
            out.ctypes.data + first // TILE_ROWS * scheme.tile_bytes(cols),
            errors.ctypes.data,
            scratch.ctypes.data,
        )
        if status == WEIGHTS_NOT_FINITE:
            raise NotFiniteError
        if status == SCALE_TOO_LARGE:
            raise UnsupportedModelError(
                f"{scheme.name} has no scale for weights of {np.abs(floats(part)).max():.3g}",
                hint="such weights are outliers beyond any use; is the checkpoint damaged?",
            )
        assert status == 0, f"{scheme.name} has no encoder"
        passed(first * part.strides[0], first * part.strides[0] + part.nbytes)
        total.add(*(float(n) for n in errors.sum(axis=(0, 2), dtype=np.float64)))
    return out, total


def interleave(parts: list[NDArray[np.uint8]], scheme: Scheme, cols: int) -> NDArray[np.uint8]:
    """The tiles of several matrices in turn."""
    return np.stack([part.reshape(-1, scheme.tile_bytes(cols)) for part in parts], axis=1).reshape(-1)


def pack_biases(w1: F32, w3: F32, w2: F32) -> NDArray[np.uint8]:
    """The biases of a block [I], [I] and [H] as they stand behind its matrices."""
    in_turn = np.stack([bias.reshape(-1, TILE_ROWS) for bias in (w1, w3)], axis=1)
    return np.concatenate([in_turn.reshape(-1), w2]).view(np.uint8)


def _pack_matrix(
    matrix: Matrix,
    weights: CheckpointWeights,
    encode_source: Encode,
    total: ErrorSum,
) -> NDArray[np.uint8]:
    parts, scheme = [], SCHEMES[matrix.scheme]
    for source in matrix.sources:
        try:
            exact = weights.exact(source.name, scheme)
            if exact is not None:
                packed, lost = _carry(exact, scheme)
            else:
                packed, lost = encode_source(source.name, weights.stored(source.name), scheme)
        except NotFiniteError:
            raise weights.not_finite(source.name) from None
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"tensor {source.name}: {error.message}", error.hint) from None
        total.add(lost.error, lost.signal)
        parts.append(packed)
    if matrix.interleave:
        return interleave(parts, scheme, matrix.cols)
    return _joined(parts)  # sources have whole tiles of 16 rows, but for a lone embedding


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One after another; a lone one, which may have a gigabyte, is not copied."""
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _carry(exact: Any, scheme: Scheme) -> tuple[NDArray[np.uint8], ErrorSum]:
    """Weights that the scheme holds as they are: nothing is rounded a second time."""
    values = exact.values()
    return pack_tiles(exact, scheme), ErrorSum(0.0, float(np.vdot(values, values)))


def floats(values: NDArray[Any]) -> F32:
    """Stored weights (uint16: bfloat16) as float32, a copy."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _hash(weights: CheckpointWeights, source: Source) -> str:
    """A hash of a source tensor's bytes as they are stored."""
    raw, digest = weights.raw(source.name), xxhash.xxh3_128()
    for first in range(0, len(raw), _HASHED_AT_A_TIME):
        digest.update(raw[first : first + _HASHED_AT_A_TIME].data)
        weights.forget_bytes(source.name, first, first + _HASHED_AT_A_TIME)
    return str(digest.hexdigest())
