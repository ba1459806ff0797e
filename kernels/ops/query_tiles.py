"""Softmax attention of a tile of query rows over the keys and values of one kv head.

A query row is one head of one token. The rows of a tile are heads of a group, of one token or of neighbours: keys and
values are loaded and widened once for all of them. Positions pass in blocks of `SCORE_BLOCK`, counted from the
sequence's start: scores, softmax so far, weighed values. Each span of blocks (`SPAN`) has a softmax of its own, merged
into that of the spans before it. A row's numbers and their order are its own, so that they do not depend on the rows
beside it, nor on who computes a span.

A thread's scratch memory (`attention_scratch_bytes`): QUERY [R], scores [R, SCORE_BLOCK], the queries transposed
[hd, R], the weighed values of the span and those of all spans so far [hd / 16, R, 16]; all float32, R = `QUERY_ROWS`.
Behind them the queries as `integer_scores.py` needs them.
"""

from math import sqrt

from numba import float32, int32, int64

from edge_lfm.kernels.lang.lowering import ISA
from edge_lfm.kernels.lang.outer_tiles import load_kept_tile, load_outer_tile, outer_tile, store_outer_tile
from edge_lfm.kernels.lang.register_tiles import zero_tile
from edge_lfm.kernels.lang.simd import (
    f32,
    i64,
    kernel,
    lanes_between,
    larger,
    largest_f32,
    load_f32,
    max_f32,
    prefetch,
    set_f32,
    set_i64,
    smaller,
    splat_f32,
    store_f32,
    sum_f32,
    zero_f32,
)
from edge_lfm.kernels.ops.integer_scores import integer_score_of, round_queries
from edge_lfm.kernels.ops.maths import exp_below
from edge_lfm.kernels.spec.layout import QUERY, QUERY_ROWS, SCORE_BLOCK, SPAN, offsets

ROW = offsets(QUERY)
LOWEST = -3.0e38
ROW_BYTES, BLOCK_BYTES, VECTOR_BYTES = QUERY.itemsize, SCORE_BLOCK * 4, 64
SCORES_AT = QUERY_ROWS * ROW_BYTES
QUERIES_AT = SCORES_AT + QUERY_ROWS * BLOCK_BYTES


@kernel
def weighed_at(hd):
    """Offset of the weighed values in the scratch memory."""
    return int64(QUERIES_AT) + hd * int64(QUERY_ROWS * 4)


@kernel
def whole_at(hd):
    """Offset of the weighed values of all spans so far."""
    return int64(QUERIES_AT) + hd * int64(2 * QUERY_ROWS * 4)


@kernel
def integers_at(hd):
    """Offset of the queries as integers."""
    return int64(QUERIES_AT) + hd * int64(3 * QUERY_ROWS * 4)


def score_of(rows, vectors, in_int8):
    """The kernel that scores `rows` queries against `vectors` x 16 positions at a time."""
    kept_bytes, lanes = 1 if in_int8 else 2, SCORE_BLOCK // 16
    columns = 4 // kept_bytes  # of 16 keys, in a cache line
    zeros, load_keys = zero_tile(rows * vectors), load_kept_tile(vectors, in_int8)
    step, store = outer_tile(rows, vectors, 4), store_outer_tile(rows, vectors, (lanes * VECTOR_BYTES, VECTOR_BYTES))

    @kernel
    def score(keys, hd, begin, length, values, scratch):
        """Dot products with positions [begin, length) of a block whose keys are at `keys`; in whole tiles of positions.

        On the way, their values and the keys of the next tile are called into the cache: tiles are short, and what the
        processor fetches ahead by itself comes too late. Returns the first position that is left.
        """
        while length - begin > 16 * (vectors - 1):
            acc, at = zeros(), keys + begin * hd * kept_bytes
            next_keys, these_values = at + vectors * 16 * hd * kept_bytes, values + begin * hd * kept_bytes
            for first in range(0, hd, columns):
                for line in range(vectors):
                    ahead = (first // columns * vectors + line) * VECTOR_BYTES
                    prefetch(next_keys + ahead)
                    prefetch(these_values + ahead)
                for d in range(first, first + columns):
                    x = scratch + QUERIES_AT + d * (QUERY_ROWS * 4)
                    acc = step(acc, load_keys(at + d * 16 * kept_bytes, hd * 16 * kept_bytes), x)
            store(scratch + SCORES_AT + begin * 4, acc)
            begin += 16 * vectors
        return begin

    return score


def weigh_of(rows, vectors, in_int8):
    """The kernel that adds up values for `rows` queries, `vectors` x 16 columns at a time."""
    kept_bytes = 1 if in_int8 else 2
    strides = (VECTOR_BYTES, QUERY_ROWS * VECTOR_BYTES)
    load_values, step = load_kept_tile(vectors, in_int8), outer_tile(rows, vectors, BLOCK_BYTES)
    load, store = load_outer_tile(rows, vectors, strides), store_outer_tile(rows, vectors, strides)

    @kernel
    def weigh(values, hd, first, begin, length, scratch):
        """weighed [rows, hd] += scores [rows, begin .. length) @ values, from column `first` on; in whole tiles.

        Returns the first column that is left.
        """
        while hd - first >= 16 * vectors:
            out = scratch + weighed_at(hd) + first // 16 * (QUERY_ROWS * VECTOR_BYTES)
            acc = load(out)
            for p in range(begin, length):
                x = scratch + SCORES_AT + p * 4
                acc = step(acc, load_values(values + (p * hd + first) * kept_bytes, int64(16 * kept_bytes)), x)
            store(out, acc)
            first += 16 * vectors
        return first

    return weigh


@kernel
def mask_edges(scores, begin, end, other):
    """Of the vectors in which [begin, end) begins and ends, the lanes outside become `other`."""
    first, last = begin // 16 * 16, (end - 1) // 16 * 16
    if begin != first:
        v = load_f32(scores + 4 * first)
        store_f32(scores + 4 * first, lanes_between(v, int32(begin - first), int32(16), other))
    if end != last + 16:
        v = load_f32(scores + 4 * last)
        store_f32(scores + 4 * last, lanes_between(v, int32(0), int32(end - last), other))


@kernel
def multiply_weighed(weighed, hd, factor):
    """weighed [hd / 16, R, 16] *= factor, for one row."""
    for i in range(hd // 16):
        at = weighed + i * (QUERY_ROWS * VECTOR_BYTES)
        store_f32(at, load_f32(at) * splat_f32(factor))


@kernel
def soften(row, scores, weighed, hd, begin, end):
    """Fold the scores of positions [begin, end) of a block into the running softmax of a row.

    They become exp(score - peak), with the new peak, and zeros in the same vectors outside; what was weighed so far is
    scaled to the new peak.
    """
    first, last = begin // 16 * 16, (end + 15) // 16 * 16
    mask_edges(scores, begin, end, float32(-float("inf")))
    top = splat_f32(f32(row + ROW.peak))
    for i in range(first, last, 16):
        top = max_f32(top, load_f32(scores + 4 * i))
    peak = largest_f32(top)
    total = zero_f32()
    for i in range(first, last, 16):
        e = exp_below(load_f32(scores + 4 * i) - splat_f32(peak))
        store_f32(scores + 4 * i, e)
        total = total + e
    mask_edges(scores, begin, end, float32(0.0))
    correction = largest_f32(exp_below(splat_f32(f32(row + ROW.peak) - peak)))
    set_f32(row + ROW.peak, peak)
    set_f32(row + ROW.total, f32(row + ROW.total) * correction + sum_f32(total))
    multiply_weighed(weighed, hd, correction)


@kernel
def soften_rows(count, block, begin, length, hd, scratch):
    """The softmax of every row over the scores of positions [begin, length) of the block at position `block`.

    What a row does not attend to becomes zero.
    """
    for m in range(count):
        row, scores = scratch + m * ROW_BYTES, scratch + SCORES_AT + m * BLOCK_BYTES
        start = larger(i64(row + ROW.start) - block, begin)
        end = smaller(i64(row + ROW.limit) - block, length)
        if start < end:
            soften(row, scores, scratch + weighed_at(hd) + m * VECTOR_BYTES, hd, start, end)
        else:  # all of it, down to a last vector that the block fills in part
            start = end = (length + 15) // 16 * 16
        for i in range(begin // 16 * 16, smaller(start // 16 * 16, length), 16):
            store_f32(scores + 4 * i, zero_f32())
        for i in range((end + 15) // 16 * 16, length, 16):
            store_f32(scores + 4 * i, zero_f32())


@kernel
def multiply_scores(count, factor, factors, begin, length, scratch):
    """scores [count, begin .. length) *= `factor`, and the factor of each position, float32 at `factors` unless 0."""
    for p in range(begin // 16 * 16, length, 16):
        v = splat_f32(factor)
        if factors != 0:
            v = v * load_f32(factors + 4 * p)
        for m in range(count):
            at = scratch + SCORES_AT + m * BLOCK_BYTES + 4 * p
            store_f32(at, load_f32(at) * v)


@kernel
def begin_whole(m, hd, scratch):
    """No span is merged into row m yet."""
    set_f32(scratch + m * ROW_BYTES + ROW.whole_peak, float32(LOWEST))
    set_f32(scratch + m * ROW_BYTES + ROW.whole_total, float32(0.0))
    for i in range(hd // 16):
        store_f32(scratch + whole_at(hd) + (i * QUERY_ROWS + m) * VECTOR_BYTES, zero_f32())


@kernel
def begin_span(count, span, hd, scratch):
    """The softmax of every row before a span; that of its first one has what the row begins with."""
    for m in range(count):
        row = scratch + m * ROW_BYTES
        is_first = i64(row + ROW.start) // SPAN == span
        set_f32(row + ROW.peak, f32(row + ROW.first_peak) if is_first else float32(LOWEST))
        set_f32(row + ROW.total, f32(row + ROW.first_total) if is_first else float32(0.0))
        for i in range(hd // 16):
            store_f32(scratch + weighed_at(hd) + (i * QUERY_ROWS + m) * VECTOR_BYTES, zero_f32())


@kernel
def merge(m, peak, total, weighed, stride, hd, scratch):
    """Merge a span's softmax into that of row m: peak, total, weighed values in hd / 16 vectors, `stride` apart."""
    row = scratch + m * ROW_BYTES
    before = f32(row + ROW.whole_peak)
    top = peak if peak > before else before
    kept, added = exp_below(splat_f32(before - top)), exp_below(splat_f32(peak - top))
    set_f32(row + ROW.whole_peak, top)
    set_f32(row + ROW.whole_total, f32(row + ROW.whole_total) * largest_f32(kept) + total * largest_f32(added))
    for i in range(hd // 16):
        at = scratch + whole_at(hd) + (i * QUERY_ROWS + m) * VECTOR_BYTES
        store_f32(at, load_f32(at) * kept + load_f32(weighed + i * stride) * added)


@kernel
def sees_span(row, span):
    """Whether a row attends to positions of a span."""
    return i64(row + ROW.start) < (span + 1) * SPAN and i64(row + ROW.limit) > span * SPAN


@kernel
def merge_span(count, span, hd, scratch):
    """Merge the span that ends into every row that has seen some of it."""
    for m in range(count):
        row, weighed = scratch + m * ROW_BYTES, scratch + weighed_at(hd) + m * VECTOR_BYTES
        if sees_span(row, span):
            merge(m, f32(row + ROW.peak), f32(row + ROW.total), weighed, int64(QUERY_ROWS * VECTOR_BYTES), hd, scratch)


@kernel
def nothing_left(memory, hd, first, *others):
    """In place of a narrower tile, after one that leaves nothing."""
    return first


@kernel
def scale_of(hd):
    """What scores are multiplied by."""
    return float32(1.0) / float32(sqrt(float32(hd)))


def scores_of(rows, vectors, in_int8):
    """What a tile does before its first block, and the kernel that makes scores of positions [begin, length) of one."""
    if in_int8 and ISA.rounds_queries:
        return _scores_of_bytes(rows, vectors)
    score = score_of(rows, vectors, in_int8)
    score_rest = score_of(rows, 1, in_int8) if vectors > 1 else nothing_left

    @kernel
    def prepare(hd, scratch):
        return

    @kernel
    def make(count, keys, key_scales, hd, begin, length, values, scratch):
        left = score(keys, hd, begin // 16 * 16, length, values, scratch)
        score_rest(keys, hd, left, length, values, scratch)
        multiply_scores(count, scale_of(hd), key_scales, begin, length, scratch)

    return prepare, make


def _scores_of_bytes(rows, vectors):
    score = integer_score_of(rows, rows * vectors)

    @kernel
    def prepare(hd, scratch):
        round_queries(scratch + QUERIES_AT, hd, scale_of(hd), scratch + integers_at(hd))

    @kernel
    def make(count, keys, key_scales, hd, begin, length, values, scratch):
        queries, scores = scratch + integers_at(hd), scratch + SCORES_AT
        score(keys, key_scales, hd, begin // 16 * 16, length, values, queries, scores)

    return prepare, make


def attend_tile_of(rows, vectors, in_int8):
    """The kernel for up to `rows` query rows; `vectors` of keys or values share a pass over the rows' scalars."""
    kept_bytes = 1 if in_int8 else 2
    prepare, make_scores = scores_of(rows, vectors, in_int8)
    weigh = weigh_of(rows, vectors, in_int8)
    weigh_rest = weigh_of(rows, 1, in_int8) if vectors > 1 else nothing_left

    @kernel
    def attend_tile(count, keys, values, key_scales, value_scales, hd, start, limit, capacity, scratch):
        """weighed [count, hd] and totals of `count` rows; any of these attends to positions of [start, limit) only.

        A block of positions lies at its first one modulo `capacity`: one division for each, and none within it.
        """
        prepare(hd, scratch)
        for block in range(start // SCORE_BLOCK * SCORE_BLOCK, limit, SCORE_BLOCK):
            if block % SPAN == 0 or block <= start:
                begin_span(count, block // SPAN, hd, scratch)
            begin, length = larger(start - block, int64(0)), smaller(limit - block, int64(SCORE_BLOCK))
            place = block % capacity
            these, those = keys + place * hd * kept_bytes, values + place * hd * kept_bytes
            scales = key_scales + 4 * place if in_int8 else int64(0)
            make_scores(count, these, scales, hd, begin, length, those, scratch)
            soften_rows(count, block, begin, length, hd, scratch)
            if in_int8:
                multiply_scores(count, float32(1.0), value_scales + 4 * place, begin, length, scratch)
            left = weigh(those, hd, int64(0), begin, length, scratch)
            weigh_rest(those, hd, left, begin, length, scratch)
            if block % SPAN == SPAN - SCORE_BLOCK or block + SCORE_BLOCK >= limit:
                merge_span(count, block // SPAN, hd, scratch)

    return attend_tile


def attend_tiles_of(in_int8):
    """The kernel that takes the smallest of the tier's tiles that holds all rows."""
    smallest, *larger_tiles = sorted(ISA.query_tiles)
    attend, most = attend_tile_of(*smallest, in_int8), smallest[0]
    for tile in larger_tiles:
        attend, most = _either(attend, most, attend_tile_of(*tile, in_int8)), tile[0]
    return attend


def _either(attend_few, few, attend_many):
    @kernel
    def attend(count, keys, values, key_scales, value_scales, hd, start, limit, capacity, scratch):
        if count <= few:
            attend_few(count, keys, values, key_scales, value_scales, hd, start, limit, capacity, scratch)
        else:
            attend_many(count, keys, values, key_scales, value_scales, hd, start, limit, capacity, scratch)

    return attend


@kernel
def put_query(m, q, hd, start, limit, sink, scratch):
    """Row m of the tile: the query q, float32 [hd], which attends to positions [start, limit).

    sink: the address of a logit that its softmax begins with, and that no value belongs to; or 0.
    """
    row = scratch + m * ROW_BYTES
    set_i64(row + ROW.start, start)
    set_i64(row + ROW.limit, limit)
    set_f32(row + ROW.first_peak, f32(sink) if sink != 0 else float32(LOWEST))
    set_f32(row + ROW.first_total, float32(1.0) if sink != 0 else float32(0.0))
    begin_whole(m, hd, scratch)
    for d in range(hd):
        set_f32(scratch + QUERIES_AT + d * (QUERY_ROWS * 4) + m * 4, f32(q + 4 * d))


@kernel
def take_mixed(m, out, hd, scratch):
    """What row m weighed in all spans, divided by its total -> out, float32 [hd]."""
    factor = splat_f32(float32(1.0) / f32(scratch + m * ROW_BYTES + ROW.whole_total))
    for i in range(hd // 16):
        v = load_f32(scratch + whole_at(hd) + (i * QUERY_ROWS + m) * VECTOR_BYTES)
        store_f32(out + i * VECTOR_BYTES, v * factor)


attend_float16, attend_int8 = attend_tiles_of(False), attend_tiles_of(True)
