"""Attention of a step's heads to the latents of their sequences: who computes what.

An item of work is up to `MOST_HEADS` heads of one token, over all positions or over one span of them (`spans.py`). Few
tokens deal out their spans and then their heads, so that all threads have some. No bit depends on it.

Legend: T tokens, R values of a latent.
"""

from numba import int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import f32, i64, kernel, larger, smaller
from edge_lfm.kernels.lang.sync import barrier, claim
from edge_lfm.kernels.ops.activations import round_activations
from edge_lfm.kernels.ops.latent_memory import ROWS as TILE_HEADS
from edge_lfm.kernels.ops.latent_memory import Kept, put_head, set_of, used_bytes
from edge_lfm.kernels.ops.latent_tiles import attend_float16, attend_int8
from edge_lfm.kernels.ops.query_tiles import put_query, take_mixed
from edge_lfm.kernels.ops.spans import keep_part, merge_parts, spans_apart
from edge_lfm.kernels.spec.layout import (
    ACTIVATION_BYTES,
    CONTEXT,
    GROUP,
    LATENT,
    LATENT_SETS,
    LAYER,
    QUERY_ROWS,
    ROW,
    SPAN,
    STATE,
    offsets,
)

CTX, LAY, LAT, STA, RW = (offsets(record) for record in (CONTEXT, LAYER, LATENT, STATE, ROW))
ROW_BYTES, STATE_BYTES = ROW.itemsize, STATE.itemsize
MOST_HEADS = LATENT_SETS * QUERY_ROWS


@kernel
def query_of(ctx, layer, latent, t):
    """The heads of token `t`, float32 [heads, plain + W]: in `queries`, or in `wide` where they have no latent."""
    if i64(latent + LAT.q_b_cols) == 0:
        return i64(ctx + CTX.wide) + t * i64(layer + LAY.in_proj_rows) * 4
    return i64(ctx + CTX.queries) + t * i64(latent + LAT.q_b_rows) * 4


@kernel
def put_heads(ctx, layer, latent, t, first, count, kept, in_int8, scratch):
    """The queries of `count` heads of token `t` from `first` on, and rows that attend to nothing up to a whole tile.

    Returns the number of rows.
    """
    heads, rank, turned = i64(latent + LAT.heads), kept.rank, kept.turned
    plain, query = i64(latent + LAT.k_b_cols), query_of(ctx, layer, latent, t)
    limit, rows = limit_of(ctx, t), (count + TILE_HEADS - 1) // TILE_HEADS * TILE_HEADS
    for m in range(rows):
        of_set, row, h = set_of(m, rank, scratch), m % QUERY_ROWS, first + m
        if m >= count:
            put_query(row, query, int64(0), int64(0), int64(0), int64(0), of_set)
        else:
            low, part = i64(ctx + CTX.low_queries) + (t * heads + h) * rank * 4, h * (plain + turned) + plain
            put_head(row, low, query + part * 4, limit, kept, in_int8, of_set)
    return rows


@kernel
def limit_of(ctx, t):
    """Up to which position token `t` of the step attends."""
    row = i64(ctx + CTX.rows) + t * ROW_BYTES
    return i64(row + RW.position) + 1 + i64(row + RW.ahead)


@kernel
def kept_of(layer, latent, state):
    """The caches of the sequence whose `state` of the layer is given."""
    rank, turned, scale = i64(latent + LAT.rank), i64(layer + LAY.rope_width), f32(latent + LAT.scale)
    keys, values = i64(state + STA.keys), i64(state + STA.values)
    return Kept(rank, turned, keys, values, i64(state + STA.key_scales), i64(state + STA.value_scales), scale)


@kernel
def place_of_head(ctx, latent, t, h):
    """Where in `taken`, [heads, T, R], the values of a head of token `t` begin, in values."""
    return (h * i64(ctx + CTX.tokens) + t) * i64(latent + LAT.rank)


@kernel
def round_taken(ctx, latent, t, h):
    """The int8 form of what a head of token `t` took."""
    rank, at = i64(latent + LAT.rank), place_of_head(ctx, latent, t, h)
    s = i64(ctx + CTX.taken_s) + at // GROUP * ACTIVATION_BYTES
    round_activations(ctx, i64(ctx + CTX.taken) + at * 4, i64(ctx + CTX.taken_q) + at, s, rank)


@kernel
def attend_heads(ctx, layer, latent, n, t, first, count, span, spans, scratch):
    """`count` heads of token `t` from `first` on, over one of `spans` spans: parts. Over all if 1: -> `taken`."""
    rank, heads, limit = i64(latent + LAT.rank), i64(latent + LAT.heads), limit_of(ctx, t)
    lowest, highest = (span * SPAN, smaller(limit, (span + 1) * SPAN)) if spans > 1 else (int64(0), limit)
    if lowest >= highest:
        return
    state = i64(i64(ctx + CTX.rows) + t * ROW_BYTES + RW.states) + n * STATE_BYTES
    kept, in_int8 = kept_of(layer, latent, state), i64(state + STA.is_int8) != 0
    rows = put_heads(ctx, layer, latent, t, first, count, kept, in_int8, scratch)
    if in_int8:
        attend_int8(rows, kept, lowest, highest, scratch)
    else:
        attend_float16(rows, kept, lowest, highest, scratch)
    for m in range(count):
        of_set, row, h = set_of(m, rank, scratch), m % QUERY_ROWS, first + m
        if spans > 1:
            keep_part(ctx, row, (t * heads + h) * spans + span, span, rank, used_bytes(rank), of_set)
        else:
            take_mixed(row, i64(ctx + CTX.taken) + place_of_head(ctx, latent, t, h) * 4, rank, of_set)
            round_taken(ctx, latent, t, h)


@kernel
def merge_heads(ctx, latent, spans, scratch):
    """The parts of every head of every token: -> `taken` and its int8 form."""
    heads, rank = i64(latent + LAT.heads), i64(latent + LAT.rank)
    while True:
        item = claim(ctx, int64(1))
        if item >= i64(ctx + CTX.tokens) * heads:
            return
        t, h = item // heads, item % heads
        out, limit = i64(ctx + CTX.taken) + place_of_head(ctx, latent, t, h) * 4, limit_of(ctx, t)
        merge_parts(ctx, item * spans, int64(0), spans, int64(0), limit, out, rank, used_bytes(rank), scratch)
        round_taken(ctx, latent, t, h)


@kernel
def heads_together(ctx, heads, items):
    """How many heads share a pass over latents: as many as have room, and fewer where there are too few `items`."""
    parts = larger((heads + MOST_HEADS - 1) // MOST_HEADS, (i64(ctx + CTX.threads) + items - 1) // items)
    together = (heads + parts - 1) // parts
    return (together + TILE_HEADS - 1) // TILE_HEADS * TILE_HEADS


@entry
def attend_latents(ctx, layer, n, scratch):
    """Every head of every token: `low_queries` [T, heads R] and the turned parts -> taken [heads, T, R]."""
    latent = i64(layer + LAY.latent)
    tokens, heads, rank = i64(ctx + CTX.tokens), i64(latent + LAT.heads), i64(latent + LAT.rank)
    highest = int64(0)
    for t in range(tokens):
        highest = larger(highest, limit_of(ctx, t))
    items = tokens * ((heads + MOST_HEADS - 1) // MOST_HEADS)
    spans = spans_apart(ctx, items, tokens * heads, int64(0), highest, rank, used_bytes(rank))
    together = heads_together(ctx, heads, tokens * spans)
    parts = (heads + together - 1) // together
    while True:
        item = claim(ctx, int64(1))
        if item >= tokens * spans * parts:
            break
        # The last tokens of a prompt have the most positions to attend to: they come first.
        part, pair = item % parts, item // parts
        t, first = tokens - 1 - pair // spans, part * together
        attend_heads(ctx, layer, latent, n, t, first, smaller(together, heads - first), pair % spans, spans, scratch)
    if spans > 1:
        barrier(ctx)
        merge_heads(ctx, latent, spans, scratch)
