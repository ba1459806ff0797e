"""Float8 weights with a scale for each block of a matrix, as some published checkpoints store them.

Beside a tensor `x.weight` of bytes lies `x.weight_scale_inv`, which its blocks are multiplied by. Knows arrays and the
config; knows no files. Source of the format: "FP8 Formats for Deep Learning" (arXiv 2209.05433), table 1, E4M3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import UnsupportedModelError
from edge_lfm.formats import mxfp4

DTYPE = "F8_E4M3"
SCALES = "_scale_inv"
"""What the name of a tensor's scales ends in, after the tensor's own."""


def _values() -> NDArray[np.float32]:
    """What each byte means: sign, four bits of exponent with a bias of 7, three bits of mantissa; no infinities."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    values = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    values[bits & 127 == 127] = np.nan
    signed: NDArray[np.float32] = np.where(bits & 128, -values, values).astype(np.float32)
    return signed


VALUES = _values()
"""float32 [256]."""


def block_of(raw_config: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Rows and columns that share a scale, as a `config.json` says; None: its weights are not float8.

    Raises:
        UnsupportedModelError: the checkpoint is quantized in another way.
    """
    key = next((key for key in ("quantization_config", "quantization") if raw_config.get(key) is not None), None)
    if key is None:
        return None
    config, hint = raw_config[key], "quantize from the original checkpoint"  # MLX's converter says `quantization`
    method = config.get("quant_method") if isinstance(config, Mapping) else None
    if method == mxfp4.METHOD:
        return None
    if method != "fp8":
        what = f"{config!r:.60}" if method is None else f"quant_method {method!r:.40}"
        raise UnsupportedModelError(f"{where}: {key}: {what} is not read", hint=hint)
    block = config.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise UnsupportedModelError(
            f"{where}: quantization_config: weight_block_size {block!r:.40} is not read, only [rows, columns]",
            hint=hint,
        )
    return block[0], block[1]


def scale_shape(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """Blocks of a matrix [rows, columns]; the last ones may be cut."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def scaled(stored: NDArray[np.uint8], scales: NDArray[np.float32], block: tuple[int, int]) -> NDArray[np.float32]:
    """The weights [N, K] of bytes [N, K] and the scales of their blocks (`scale_shape`)."""
    rows, cols = stored.shape
    values = np.empty((rows, cols), np.float32)
    for n, first in enumerate(range(0, rows, block[0])):  # a block's rows at a time: no second array of that size
        part = slice(first, first + block[0])
        np.multiply(VALUES[stored[part]], np.repeat(scales[n], block[1])[:cols], out=values[part])
    return values
