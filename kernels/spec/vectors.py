"""How 16 rows x 32 columns lie in vectors of 64 bytes, in NumPy: what the definitions of schemes are built of.

Legend: N rows, K columns, G groups of 32 columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.spec.layout import GROUP

U8 = NDArray[np.uint8]


def to_vectors(q: NDArray[Any]) -> NDArray[Any]:
    """[N, K] -> [tiles, G, 8 vectors, 64]: byte 4r + b of vector j is row r, column 4j + b."""
    groups = q.shape[1] // GROUP
    return q.reshape(-1, 16, groups, 8, 4).transpose(0, 2, 3, 1, 4).reshape(-1, groups, 8, 64)


def from_vectors(vectors: NDArray[Any], cols: int) -> NDArray[Any]:
    return vectors.reshape(-1, cols // GROUP, 8, 16, 4).transpose(0, 3, 1, 2, 4).reshape(-1, cols)


def to_nibbles(q: U8) -> U8:
    """Eight vectors of 0..15 as four of bytes: the first four are the low halves."""
    return q[:, :, :4] | q[:, :, 4:] << np.uint8(4)


def from_nibbles(packed: U8) -> U8:
    return np.concatenate([packed & 15, packed >> 4], axis=2)


def to_thirds(q: U8) -> U8:
    """Eight vectors of 0..7 as three of bytes: two in each, and the bits of the last two above them."""
    rest = q[:, :, 6] | q[:, :, 7] << np.uint8(3)
    above: U8 = np.stack([(rest >> np.uint8(2 * i)) << np.uint8(6) for i in range(3)], axis=2)
    pairs: U8 = q[:, :, 0:6:2] | q[:, :, 1:6:2] << np.uint8(3)
    return pairs | above


def from_thirds(packed: U8) -> U8:
    pairs = np.stack([packed & 7, packed >> 3 & 7], axis=3).reshape(*packed.shape[:2], 6, 64)
    above = packed >> 6
    rest = above[:, :, 0] | above[:, :, 1] << np.uint8(2) | above[:, :, 2] << np.uint8(4)
    return np.concatenate([pairs, np.stack([rest & 7, rest >> 3], axis=2)], axis=2)


def to_fifths(q: U8) -> U8:
    """Eight vectors of 0..31 as five of bytes: one in each, and the bits of the last three above them."""
    a, b, c = q[:, :, 5], q[:, :, 6], q[:, :, 7]
    above = (a & 7, a >> 3 & 3 | b >> 1 & 4, b & 7, b >> 4 & 1 | c >> 2 & 6, c & 7)
    five: U8 = q[:, :, :5] | np.stack(above, axis=2) << np.uint8(5)
    return five


def from_fifths(packed: U8) -> U8:
    first = [packed[:, :, i] for i in range(5)]
    a = first[0] >> 5 | first[1] >> 2 & 0x18
    b = first[2] >> 5 | first[1] >> 4 & 0x08 | first[3] >> 1 & 0x10
    c = first[4] >> 5 | first[3] >> 3 & 0x18
    return np.concatenate([packed & 31, np.stack([a, b, c], axis=2)], axis=2)


def padded(x: NDArray[Any]) -> NDArray[Any]:
    """Rows padded with zeros to a multiple of 16."""
    return np.pad(x, ((0, -len(x) % 16), (0, 0)))


def by_tile(x: NDArray[Any]) -> NDArray[Any]:
    """[N, blocks], a number for each row and block -> [tiles, blocks, 16]."""
    return padded(x).reshape(-1, 16, x.shape[1]).transpose(0, 2, 1)


def by_row(x: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `by_tile`: [tiles, blocks, 16] -> [N, blocks]."""
    return x.transpose(0, 2, 1).reshape(-1, x.shape[1])
