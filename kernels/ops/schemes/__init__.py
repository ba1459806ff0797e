"""The compiled side of every scheme, and kernels that choose by a scheme's id: generated from the table.

Each family of schemes has a file here with `kernels_of(scheme)` (`ops/weights.py` says what it makes).
"""

from importlib import import_module

from numba import int64

from edge_lfm.kernels.lang.simd import kernel, set_f32
from edge_lfm.kernels.ops.weights import SchemeKernels
from edge_lfm.kernels.spec.schemes import SCHEMES

KERNELS: tuple[SchemeKernels, ...] = tuple(
    import_module(f"{__name__}.{scheme.family}").kernels_of(scheme) for scheme in reversed(SCHEMES.values())
)
"""By row of the table, the last row first: float32, the last here, is what an unknown id is taken for."""


def by_scheme(make, rows=KERNELS):
    """A kernel `(scheme, *arguments)` that calls `make(row)`, a kernel `(*arguments)`, of the row with that id."""
    number, chosen = rows[0].scheme.id, make(rows[0])
    if len(rows) == 1:

        @kernel
        def only(scheme, *arguments):
            return chosen(*arguments)

        return only
    others = by_scheme(make, rows[1:])

    @kernel
    def either(scheme, *arguments):
        if scheme == number:
            return chosen(*arguments)
        return others(scheme, *arguments)

    return either


def _tile_bytes(row):
    header, columns, nbytes = row.scheme.header_bytes, row.scheme.columns, row.scheme.group_bytes

    @kernel
    def size(cols):
        return int64(header) + cols // columns * nbytes

    return size


tile_bytes = by_scheme(_tile_bytes)
"""`(scheme, cols)` -> bytes of 16 rows."""


def _unpack(row):
    value = row.value

    @kernel
    def unpack(w, r, cols, out):
        for k in range(cols):
            set_f32(out + 4 * k, value(w, r, k))

    return unpack


unpack_tile_row = by_scheme(_unpack)
"""`(scheme, w, r, cols, out)`: row r of the tile at w -> float32 [cols]."""
