"""Weights of four bits in blocks of 32 that a power of two scales, as gpt-oss's checkpoints and GGUF files store them.

In a checkpoint `x_blocks`, U8 [..., blocks, 16], and `x_scales`, U8 [..., blocks], stand for the tensor x; byte i of a
block holds weights 2 i, low, and 2 i + 1. In a GGUF file a block is its exponent, then byte j holds weights j, low, and
j + 16. Knows arrays; knows no files. Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5 and 6.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

KIND = "MXFP4"
"""ggml's name of the blocks."""
METHOD = "mxfp4"
"""`quant_method` of a `config.json`."""
BLOCKS, SCALES = "_blocks", "_scales"
DTYPE = "U8"
GROUP = 32
_BYTES = 16
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_NO_NUMBER = 255


def says_so(raw_config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` says that its checkpoint's experts are of this kind."""
    config = raw_config.get("quantization_config")
    return isinstance(config, Mapping) and config.get("quant_method") == METHOD


def shape_of(blocks: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the tensor that stored shapes stand for; None: they do not fit one another."""
    if len(blocks) < 3 or blocks[-1] != _BYTES or blocks[:-1] != scales:
        return None
    return (*blocks[:-2], GROUP * blocks[-2])


def as_ggml(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A checkpoint's blocks and scales as ggml's blocks, [..., blocks * 17]."""
    nibbles = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], GROUP)
    paired = nibbles[..., :_BYTES] | nibbles[..., _BYTES:] << np.uint8(4)
    return np.concatenate([scales[..., None], paired], axis=-1).reshape(*blocks.shape[:-2], -1)


def values(ggml: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ggml's blocks mean, float32 [..., blocks * 32]; NaN where an exponent is none."""
    each: NDArray[Any] = ggml.reshape(*ggml.shape[:-1], -1, 1 + _BYTES)
    nibbles = np.concatenate([each[..., 1:] & 15, each[..., 1:] >> 4], axis=-1)
    exponents = each[..., :1].astype(np.int32)
    with np.errstate(over="ignore"):
        meant = np.ldexp(_VALUES[nibbles], exponents - 127)
    floats: NDArray[np.float32] = np.where(exponents == _NO_NUMBER, np.float32(np.nan), meant).astype(np.float32)
    return floats.reshape(*ggml.shape[:-1], -1)
