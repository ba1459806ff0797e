"""The table of weight schemes: one row for each way in which the weights of a matrix are stored.

What a file, a recipe and a kernel agree on. A row names its family; the family's two files hold the rest:

    spec/definitions/FAMILY.py  in NumPy: packing, unpacking, rounding, random weights, blocks of other formats
    ops/schemes/FAMILY.py       compiled: what the dot product reads, look-up of a row, the encoder

Everything that depends on the scheme is generated from this table. A new scheme is a row here, and a family's two files
unless it belongs to one that exists. Imports no Numba.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_lfm.kernels.spec.layout import GROUP

TILE_ROWS = 16
"""Rows of a weight tile, on every processor: 16 int32 lanes fill one AVX-512 register, two AVX2 or four NEON ones."""


@dataclass(frozen=True)
class Linear:
    """A weight is one of the integers `low`..`high` times its block's scale, a float16."""

    low: int
    high: int
    ends: tuple[float, ...]
    """Ends of the grid near which the search for a scale puts a block's largest weight."""
    candidates: int
    """Scales that are tried around each end ..."""
    step: float
    """... and how far apart they are, in units of the grid."""
    plain: bool = False
    """Whether `plain` rounding, ggml's without a search, is known: the block's largest weight lies on `low`."""


@dataclass(frozen=True)
class Codebook:
    """A weight is one of 16 or 8 levels, all raised by a shift or not, times a multiple of its row's scale, a
    float32."""

    levels: tuple[int, ...]
    """Rising. As unsigned numbers they have six bits: four products with activations fit the int16 of processors
    without 4-way dot products (ADR 11). Those of four bits were found by `tools/fit_codebook.py`."""
    shift: int
    """A block may use the levels as they are or all of them a multiple of this higher, whichever leaves least error."""
    candidates: int
    step: float
    shifts: int = 2
    """How many shifts there are, a power of 2, 0 included. The second one is 0.3 dB for one bit with 16 levels; with 8
    levels four of them are 0.9 dB."""

    @property
    def points(self) -> tuple[tuple[int, ...], ...]:
        """The levels as points of one weight."""
        return tuple((level,) for level in self.levels)

    @property
    def low(self) -> int:
        return self.levels[0]

    @property
    def high(self) -> int:
        return self.levels[-1] + self.shift * (self.shifts - 1)


@dataclass(frozen=True)
class Pairs:
    """Two weights, 16 columns apart, are one of 32 points, both raised by a shift or not, times a multiple of their
    row's scale."""

    points: tuple[tuple[int, int], ...]
    """As unsigned numbers they have six bits, as those of a codebook; found by `tools/fit_pairs.py`."""
    shift: int
    shifts: int
    candidates: int
    step: float

    @property
    def low(self) -> int:
        return min(min(point) for point in self.points)

    @property
    def highest(self) -> int:
        """Of the points as they are."""
        return max(max(point) for point in self.points)

    @property
    def high(self) -> int:
        return self.highest + self.shift * (self.shifts - 1)


@dataclass(frozen=True)
class Microscaled:
    """A weight is one of 16 levels times 2 ** (e - bias), where e is the byte of its block (OCP's MX formats)."""

    levels: tuple[int, ...]
    """By the four bits that are stored. As unsigned numbers they have six bits, as those of a codebook."""
    bias: int

    @property
    def low(self) -> int:
        return min(self.levels)

    @property
    def high(self) -> int:
        return max(self.levels)


MAX_EXPONENT = 254
"""Of microscaled blocks; 255 is no number."""

MAX_SCALE = 127
"""A codebook block's scale is its row's scale times c - 127, where c is the block's scale byte; its last bits, one for
2 shifts and two for 4, also say how many shifts the levels are raised by."""

ABOUT_ONE = 0.9998
"""Candidates for a scale byte lie around the block's multiple over the number of shifts, times this. The largest scale
of a row is 127 exactly, whose half is as near to 63 as to 64: here it is 63, on every processor."""


@dataclass(frozen=True)
class Scheme:
    """How a matrix [rows, cols] is stored: tiles of 16 rows, each a header and a run of groups of columns."""

    id: int
    name: str
    family: str
    header_bytes: int
    """Of a tile: 16 float32 scales of rows, or nothing."""
    value_bytes: int
    """Of the weights of a group, 16 x `columns`; they come first."""
    scale_bytes: int
    """Of the scales of a group; they come last."""
    grid: Linear | Codebook | Pairs | Microscaled | None = None
    """The values that a weight can have; None: float32, or the family knows."""
    block: int = GROUP
    """Columns that share a scale."""
    columns: int = GROUP
    """Columns that are stored together, a multiple of 32."""
    ggml: tuple[str, ...] = ()
    """ggml's types whose blocks hold the same numbers: taken over, and written, without rounding."""
    gguf_type: str = "Q8_0"
    """The type of ggml that loses least when a GGUF file is written."""

    @property
    def group_bytes(self) -> int:
        return self.value_bytes + self.scale_bytes

    @property
    def quantized(self) -> bool:
        """Whether weights are rounded, and multiplied by int8 activations."""
        return self.family != "floats"

    @property
    def integer_bits(self) -> int:
        """Bits of a signed integer that holds every value before its scale: 4 or 8."""
        return 4 if self.grid and self.grid.low >= -8 and self.grid.high <= 7 else 8

    def tile_bytes(self, cols: int) -> int:
        """Bytes of 16 rows; `cols` is a multiple of `columns`."""
        return self.header_bytes + cols // self.columns * self.group_bytes

    def matrix_bytes(self, rows: int, cols: int) -> int:
        """Bytes of a matrix, its rows padded to 16."""
        return -(-rows // TILE_ROWS) * self.tile_bytes(cols)

    def bits_per_weight(self, cols: int) -> float:
        return 8 * self.tile_bytes(cols) / (TILE_ROWS * cols)


_WEIGHTS = TILE_ROWS * GROUP
_INT8 = Linear(-127, 127, ends=(127.0,), candidates=5, step=0.25)
_INT4 = Linear(-8, 7, ends=(-8.0, 7.0), candidates=19, step=0.1, plain=True)
_CODEBOOK4 = Codebook(
    (-35, -26, -20, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 22, 28), shift=2, candidates=7, step=0.5
)
_CODEBOOK3 = Codebook((-30, -18, -9, -2, 5, 12, 21, 33), shift=2, candidates=7, step=2.0, shifts=4)
_POINTS = (
    (-29, 7), (-27, 22), (-23, -19), (-22, -3), (-16, 11), (-12, -7), (-12, 32), (-10, -17),
    (-10, 0), (-8, 18), (-7, -30), (-6, 8), (-2, -7), (-1, -1), (-1, 25), (1, -13),
    (2, 16), (4, -22), (4, 4), (5, 10), (9, -5), (10, 33), (11, -15), (13, 3),
    (13, 20), (15, -29), (15, 10), (19, -8), (25, 6), (26, 22), (30, -19), (32, -4),
)  # fmt: skip
_PAIRS = Pairs(_POINTS, shift=2, shifts=4, candidates=5, step=2.0)
_E2M1 = Microscaled((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), bias=128)
"""Twice what E2M1 means, so the bias is one more than E8M0's."""

FLOAT32 = Scheme(0, "float32", "floats", 0, 4 * _WEIGHTS, 0, gguf_type="F16")
INT8_G32 = Scheme(1, "int8_g32", "linear", 0, _WEIGHTS, 2 * TILE_ROWS, _INT8, ggml=("Q8_0",))
INT4_G32 = Scheme(2, "int4_g32", "linear", 0, _WEIGHTS // 2, 2 * TILE_ROWS, _INT4, ggml=("Q4_0",), gguf_type="Q4_0")
CODEBOOK4_G32 = Scheme(3, "codebook4_g32", "codebook", 4 * TILE_ROWS, _WEIGHTS // 2, TILE_ROWS, _CODEBOOK4)
CODEBOOK4_G16 = Scheme(
    4, "codebook4_g16", "codebook", 4 * TILE_ROWS, _WEIGHTS // 2, 2 * TILE_ROWS, _CODEBOOK4, block=16
)
CODE3_G32 = Scheme(5, "code3_g32", "codebook", 4 * TILE_ROWS, _WEIGHTS * 3 // 8, TILE_ROWS, _CODEBOOK3)
PAIR5_G32 = Scheme(6, "pair5_g32", "pairs", 4 * TILE_ROWS, 320, 2 * TILE_ROWS, _PAIRS, columns=2 * GROUP)
MXFP4_G32 = Scheme(
    7, "mxfp4_g32", "microscaled", 0, _WEIGHTS // 2, TILE_ROWS, _E2M1, ggml=("MXFP4",), gguf_type="MXFP4"
)

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (FLOAT32, INT8_G32, INT4_G32, CODEBOOK4_G32, CODEBOOK4_G16, CODE3_G32, PAIR5_G32, MXFP4_G32)
}
"""Every scheme by the name that files carry."""


def scheme_like(kind: str) -> Scheme | None:
    """The scheme that holds exactly what blocks of ggml's type `kind` hold."""
    return next((scheme for scheme in SCHEMES.values() if kind in scheme.ggml), None)
