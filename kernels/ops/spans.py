"""Attention of few tokens over many positions: the spans of a sequence are computed by several threads.

Where a step has fewer pairs of tokens and kv heads than keep its threads busy, each item of work is one span (`SPAN`)
of such a pair. What a span gives, a part, waits in the scratch memory that attention leaves free, of whichever thread;
after a barrier the parts of each row are merged in the order of positions, as one thread that computes all spans does.
Knows no caches. `used`: bytes of a thread's scratch memory, in whole cache lines, that are not free.
"""

from numba import int64

from edge_lfm.kernels.lang.simd import f32, i64, kernel, larger, load_f32, set_f32, smaller, store_f32
from edge_lfm.kernels.ops.query_tiles import (
    ROW,
    ROW_BYTES,
    VECTOR_BYTES,
    begin_whole,
    merge,
    sees_span,
    take_mixed,
    weighed_at,
)
from edge_lfm.kernels.spec.layout import CONTEXT, QUERY_ROWS, SPAN, attention_scratch_bytes, offsets

CTX = offsets(CONTEXT)
ITEMS_A_THREAD = 4
"""Items of work for each thread that let all of them end at about the same time."""
SCRATCH_AT_0, SCRATCH_BY_WIDTH = attention_scratch_bytes(0), attention_scratch_bytes(1) - attention_scratch_bytes(0)


@kernel
def part_bytes(hd):
    """Of a part: peak and total in a cache line, then weighed values, float32 [hd]."""
    return int64(VECTOR_BYTES) + hd * int64(4)


@kernel
def parts_in_scratch(ctx, hd, used):
    """How many parts one thread's scratch memory has room for."""
    return larger((i64(ctx + CTX.scratch_bytes) - used) // part_bytes(hd), int64(0))


@kernel
def scratch_needed(hd):
    """`attention_scratch_bytes`, in whole cache lines."""
    return (int64(SCRATCH_AT_0) + hd * int64(SCRATCH_BY_WIDTH) + 63) // 64 * 64


@kernel
def place_of_part(ctx, n, hd, used):
    """The address of part n."""
    room = parts_in_scratch(ctx, hd, used)
    base = i64(ctx + CTX.scratch) + n // room * i64(ctx + CTX.scratch_bytes)
    return base + used + n % room * part_bytes(hd)


@kernel
def spans_apart(ctx, items, rows, first, limit, hd, used):
    """Into how many spans the positions [first, limit) of a step's rows fall, if they are to be items of their own.

    1: the `items` there are keep the threads busy, or the parts of `rows` heads of tokens have no room.
    """
    threads = i64(ctx + CTX.threads)
    if threads == 1 or items >= ITEMS_A_THREAD * threads:
        return int64(1)
    spans = (limit + SPAN - 1) // SPAN - first // SPAN
    return spans if rows * spans <= threads * parts_in_scratch(ctx, hd, used) else int64(1)


@kernel
def keep_part(ctx, m, n, span, hd, used, scratch):
    """Part n is what row m of the tile has of a span; nothing if it has nothing."""
    row, at = scratch + m * ROW_BYTES, place_of_part(ctx, n, hd, used)
    if sees_span(row, span):
        set_f32(at, f32(row + ROW.peak))
        set_f32(at + 4, f32(row + ROW.total))
        for i in range(hd // 16):
            v = load_f32(scratch + weighed_at(hd) + (i * QUERY_ROWS + m) * VECTOR_BYTES)
            store_f32(at + (i + 1) * VECTOR_BYTES, v)


@kernel
def merge_parts(ctx, n, first_span, spans, start, limit, out, hd, used, scratch):
    """Parts n .. n + spans of a row that attends to [start, limit) -> out, float32 [hd]."""
    begin_whole(int64(0), hd, scratch)
    for span in range(larger(start // SPAN, first_span), smaller((limit + SPAN - 1) // SPAN, first_span + spans)):
        at = place_of_part(ctx, n + span - first_span, hd, used)
        merge(int64(0), f32(at), f32(at + 4), at + VECTOR_BYTES, int64(VECTOR_BYTES), hd, scratch)
    take_mixed(int64(0), out, hd, scratch)
