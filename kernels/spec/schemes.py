"""The weight schemes as declared objects: id, sizes, blocks. What a file, a recipe and a kernel agree on.

Bytes are those of `matmul.py`'s layout. A scheme is encoded by `encode.py`, decoded by `tiles.py`, and multiplied by
the kernel of its id. Imports no Numba.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_lfm.kernels.spec.layout import GROUP

TILE_ROWS = 16
"""Rows of a weight tile, on every processor: 16 int32 lanes fill one AVX-512 register, two AVX2 or four NEON ones."""


@dataclass(frozen=True)
class Scheme:
    """How a matrix [rows, cols] is stored: tiles of 16 rows, each a header and a run of groups of 32 columns."""

    id: int
    name: str
    header_bytes: int  # of a tile
    value_bytes: int  # of 16 x 32 weights
    scale_bytes: int  # of 16 x 32 weights
    block: int = GROUP  # columns that share a scale
    codebook: bool = False

    @property
    def group_bytes(self) -> int:
        return self.value_bytes + self.scale_bytes

    def tile_bytes(self, cols: int) -> int:
        """Bytes of 16 rows; `cols` is a multiple of 32."""
        return self.header_bytes + cols // GROUP * self.group_bytes

    def matrix_bytes(self, rows: int, cols: int) -> int:
        """Bytes of a matrix, its rows padded to 16."""
        return -(-rows // TILE_ROWS) * self.tile_bytes(cols)

    def bits_per_weight(self, cols: int) -> float:
        return 8 * self.tile_bytes(cols) / (TILE_ROWS * cols)


_WEIGHTS = TILE_ROWS * GROUP
FLOAT32 = Scheme(0, "float32", 0, 4 * _WEIGHTS, 0)
INT8_G32 = Scheme(1, "int8_g32", 0, _WEIGHTS, 2 * TILE_ROWS)
INT4_G32 = Scheme(2, "int4_g32", 0, _WEIGHTS // 2, 2 * TILE_ROWS)
CODEBOOK4_G32 = Scheme(3, "codebook4_g32", 4 * TILE_ROWS, _WEIGHTS // 2, TILE_ROWS, codebook=True)
CODEBOOK4_G16 = Scheme(4, "codebook4_g16", 4 * TILE_ROWS, _WEIGHTS // 2, 2 * TILE_ROWS, block=16, codebook=True)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for scheme in (FLOAT32, INT8_G32, INT4_G32, CODEBOOK4_G32, CODEBOOK4_G16)
}
"""Every scheme by the name that files carry."""
