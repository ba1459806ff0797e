"""What kernels need to know of a weight scheme: the compiled side of a row of the table (`spec/schemes.py`).

A family of schemes says how its bytes become levels, scales and offsets (`Integers`); tiles for few tokens
(`integer_tiles.py`) and for many (`blocks.py`) are made from that. Knows no scheme.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import float32

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.simd import fourth_thirds, inlined, last_fifths, load_f32, load_i8, prefetch, splat_f32
from edge_lfm.kernels.spec.schemes import Scheme

Kernel = Any
AHEAD = 10240
"""Bytes that weights are prefetched ahead: past the page that hardware prefetchers do not leave. On one core of a
Sapphire Rapids, single tokens read codebook weights at 16.2 GB/s with 4096, 18.0 with 10240; int8 at 15.4 and 18.1."""


@dataclass(frozen=True)
class Block:
    """16 rows of columns that share a scale, 32 or 16 of them."""

    columns: tuple[Kernel, ...]
    """For each 16 columns `(stored)` -> four vectors of bytes, levels as the dot product reads them: byte 4r + b of
    vector j is row r, column 4j + b. `stored`: what `Integers.load` gave for the group."""
    scale: Kernel
    """`(w)` -> float32 x 16, the scales of the rows: weight = scale * level + offset."""
    offset: Kernel | None = None
    """`(w, scale)` -> float32 x 16, on tiers that do not start sums (`Isa.starts_sums`). None: what undoes
    `Integers.zero_point`."""
    shift: Kernel | None = None
    """`(w)` -> bytes as of `columns`, what is to be added to these, on tiers that start sums. None: nothing."""


@dataclass(frozen=True)
class Integers:
    """How groups of a scheme become integers that a dot product takes."""

    scheme: Scheme
    levels: str
    """What levels are. `small`: 0..15; `looked_up`: 0..63 out of a table; `signed`: -127..127, plus
    `dots.SIGNED_ZERO_POINT` as read."""
    load: Kernel
    """`(w)` -> whatever a group's levels are made of: its vectors; or w, where each is used once."""
    parts: tuple[tuple[Block, ...], ...]
    """A group, 32 columns after the other: one block of 32 columns, or two of 16."""
    unit: float = 1.0
    """What a tile's sums are multiplied by at last; scales and offsets are of that much less."""
    zero_point: int = 0
    """What levels are raised by. On tiers that start sums a power of two, or 0."""


@dataclass(frozen=True)
class SchemeKernels:
    """The compiled side of a scheme."""

    scheme: Scheme
    tile: Callable[[int], Kernel]
    """`(count)` -> `(w, x, s, cols)` -> float32 register tile of 16 rows x `count` tokens. w: the address of a tile of
    weights; x: activations [count, cols], int8, or float32 for float32 weights; s: records [count, cols / 32]."""
    value: Kernel
    """`(w, r, k)` -> float32: row r, column k of a tile at w."""
    blocks: Kernel | None = None
    """`(w, x, blocks, cols, work)`: a tile times blocks of 16 tokens (`blocks.py`), or None."""
    encode: Kernel | None = None
    """`(plain, x, importance, cols, row_peak, out, scratch, errors)` -> 0 or an error code: one tile (`encode.py`)."""
    unit: float = 1.0
    """As of `Integers`."""


def offset_of(integers, block):
    """A kernel `(w, scale)` -> float32 x 16, what weights of a block carry on top of their levels; None: nothing, or
    what sums start with."""
    if ISA.starts_sums and block.offset is not None:
        raise ValueError(f"{integers.scheme.name}: this tier takes offsets as zero point and shift")
    if ISA.starts_sums or block.offset is not None or integers.zero_point == 0:
        return block.offset
    undone = -integers.zero_point

    @inlined
    def offset(w, scale):
        return scale * splat_f32(float32(undone))

    return offset


def factors_of(scheme, unit):
    """A kernel `(w)` -> what the sums of the tile at w are multiplied by at last, float32 x 16; None: nothing."""
    if scheme.header_bytes:
        return load_f32
    if unit == 1.0:
        return None

    @inlined
    def factor(w):
        return splat_f32(float32(unit))

    return factor


def in_turn(steps):
    """A kernel `(value, *arguments)` that passes a value through kernels of that signature, one after the other."""
    if len(steps) == 1:
        return steps[0]
    step, rest = steps[0], in_turn(steps[1:])

    @inlined
    def run(value, *arguments):
        return rest(step(value, *arguments), *arguments)

    return run


@inlined
def load_nibbles(w):
    """Four vectors: 16 rows x 32 columns of four bits each."""
    return load_i8(w), load_i8(w + 64), load_i8(w + 128), load_i8(w + 192)


@inlined
def load_thirds(w):
    """Four vectors: 16 rows x 32 columns of three bits each, the last vector out of the others' upper bits."""
    a, b, c = load_i8(w), load_i8(w + 64), load_i8(w + 128)
    return a, b, c, fourth_thirds(a, b, c)


_fifth, _sixth, _seventh = (last_fifths(n) for n in range(3))


@inlined
def load_fifths(w):
    """Eight vectors: 16 rows x 32 entries of five bits, the last three vectors out of the others' upper bits."""
    a, b, c, d, e = load_i8(w), load_i8(w + 64), load_i8(w + 128), load_i8(w + 192), load_i8(w + 256)
    return a, b, c, d, e, _fifth(a, b, c, d, e), _sixth(a, b, c, d, e), _seventh(a, b, c, d, e)


def prefetch_group(nbytes):
    """A kernel `(w)` that fetches what lies `AHEAD` of a group of so many bytes."""

    @inlined
    def fetch(w):
        for at in range(0, nbytes, 64):
            prefetch(w + AHEAD + at)

    return fetch
