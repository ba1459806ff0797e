"""Where attention to latents keeps what it works with: the scratch memory of a thread, `latent_scratch_bytes`.

Of each set of `QUERY_ROWS` heads that of `query_tiles.py`; behind it the queries of its heads, as float32 [QUERY_ROWS,
R], or as the integers of `integer_scores.py`, those of latents before those of turned keys; and weights as integers.
The latents of a block follow the sets. Rows of float32 are a cache line further apart than they are long: columns of
rows whose length is a power of two would fall into few lines of the cache.

Legend: R values of a latent, W values of a key that are turned; W is at most R.
"""

from collections import namedtuple

from numba import int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.simd import copy_bytes, kernel
from edge_lfm.kernels.ops.integer_scores import factors_at, integer_bytes, round_row
from edge_lfm.kernels.ops.query_tiles import VECTOR_BYTES, put_query, whole_at
from edge_lfm.kernels.spec.layout import LATENT_BLOCK, LATENT_BYTES_BLOCK, LATENT_SETS, QUERY_ROWS

ROWS, VECTORS = min(ISA.query_tiles)
"""Heads of a tile, and vectors of the latents that they weigh; heads fill whole tiles."""
IN_BYTES = ISA.rounds_queries
"""Whether latents of int8 are multiplied as bytes."""

Kept = namedtuple("Kept", "rank turned keys values key_scales value_scales scale")
"""The caches of a sequence in this layer: sizes, addresses, and what scores are multiplied by."""


@kernel
def row_bytes(rank):
    """From a row of R values to the next one."""
    return rank * int64(4) + int64(VECTOR_BYTES)


@kernel
def queries_at(rank):
    """Offset of the queries of a set of heads, which are scored against latents."""
    return whole_at(rank) + rank * int64(QUERY_ROWS * 4)


@kernel
def turned_at(rank):
    """Offset of the turned parts of queries as integers."""
    return queries_at(rank) + integer_bytes(rank)


@kernel
def weights_at(rank):
    """Offset of the weights of a block as integers."""
    return queries_at(rank) + int64(QUERY_ROWS) * row_bytes(rank)


@kernel
def set_bytes(rank):
    """Of the scratch memory of a set of heads."""
    return weights_at(rank) + integer_bytes(int64(LATENT_BYTES_BLOCK))


@kernel
def set_of(m, rank, scratch):
    """The scratch memory of the set that head m is in."""
    return scratch + m // QUERY_ROWS * set_bytes(rank)


@kernel
def block_at(rank):
    """Offset of the latents of a block."""
    return LATENT_SETS * set_bytes(rank)


@kernel
def used_bytes(rank):
    """`latent_scratch_bytes`."""
    return block_at(rank) + LATENT_BLOCK * row_bytes(rank)


@kernel
def put_head(m, low, turned_part, limit, kept, in_int8, scratch):
    """Row m of a set: the query `low`, float32 [R], of latents and `turned_part` [W] of keys, before place `limit`."""
    rank, turned = kept.rank, kept.turned
    put_query(m, turned_part, turned, int64(0), limit, int64(0), scratch)
    if IN_BYTES and in_int8:
        of_latents, of_keys = scratch + queries_at(rank), scratch + turned_at(rank)
        round_row(low, rank, kept.scale, of_latents + 16 * m, of_latents + factors_at(rank) + 4 * m)
        round_row(turned_part, turned, kept.scale, of_keys + 16 * m, of_keys + factors_at(turned) + 4 * m)
    else:
        copy_bytes(scratch + queries_at(rank) + m * row_bytes(rank), low, rank * 4)
