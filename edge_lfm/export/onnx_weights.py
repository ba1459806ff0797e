"""Packed weights in the layout of onnxruntime's MatMulNBits and QMoE: unsigned integers in blocks, a scale for each.

    value = (integer - 2**(bits - 1)) * scale

Linear schemes map bit by bit; a codebook's levels are 8-bit integers, so that it maps exactly at twice the size.
Operators: onnxruntime's contrib operator documentation (quantization facts, 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.schemes import Scheme


@dataclass(frozen=True)
class Blocks:
    """A matrix [rows, cols] for MatMulNBits: `data` uint8 [rows, blocks, block * bits / 8], `scales` [rows, blocks]."""

    data: NDArray[np.uint8]
    scales: F32
    bits: int
    block: int

    @property
    def cols(self) -> int:
        return int(self.scales.shape[1]) * self.block


def to_blocks(weights: Quantized, scheme: Scheme) -> Blocks:
    """Integers and scales, byte j of 4-bit data holding columns 2j (low) and 2j + 1."""
    bits, block = scheme.integer_bits, scheme.block
    data = (weights.q.view(np.uint8) + np.uint8(1 << (bits - 1))).reshape(len(weights.q), -1, block)
    if bits == 4:
        data = data[..., 0::2] | data[..., 1::2] << np.uint8(4)
    return Blocks(np.ascontiguousarray(data), np.ascontiguousarray(weights.scale, np.float32), bits, block)


def interleave_rows(first: Blocks, second: Blocks) -> Blocks:
    """Rows in turn, as QMoE's fused SwiGLU wants gate and up."""
    data = np.stack([first.data, second.data], axis=1).reshape(-1, *first.data.shape[1:])
    scales = np.stack([first.scales, second.scales], axis=1).reshape(-1, first.scales.shape[1])
    return Blocks(data, scales, first.bits, first.block)
