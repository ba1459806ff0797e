"""The experts of a step: sum += weight * w2(silu(w1 x) * w3 x), expert by expert over their tokens.

A block holds one expert: the row tiles of w1 and w3 in turn (tile 0 of w1, tile 0 of w3, tile 1 of w1, ...), then w2,
which may have a scheme of its own, then biases of them, if the layer has any. Two phases: `gate_up` draws (expert, 32
rows) items, so that a hot expert is shared by the team; `down` draws runs of rows of the output and adds the experts in
rising order, so that sums do not depend on the threads. A dense FFN is one expert with weight 1. Both phases leave out
experts that are not `present`: when experts are paged, a step calls them for those that are there while others are
read, and sums keep their order.
"""

from numba import int64

from edge_lfm.kernels.lang.simd import (
    copy_bytes,
    f32,
    fma,
    i64,
    kernel,
    load_f32,
    max_f32,
    min_f32,
    smaller,
    splat_f32,
    store_f32,
    zero_f32,
)
from edge_lfm.kernels.lang.sync import claim, claim_run
from edge_lfm.kernels.ops.activations import INFINITY_BITS, check_below, round_group
from edge_lfm.kernels.ops.maths import sigmoid, silu
from edge_lfm.kernels.ops.matmul import multiply_tile, pack_tokens
from edge_lfm.kernels.ops.norm import branch_sum
from edge_lfm.kernels.ops.operands import Inputs, Outputs, from_token
from edge_lfm.kernels.ops.schemes import tile_bytes
from edge_lfm.kernels.spec.layout import (
    ACTIVATION_BYTES,
    CONTEXT,
    EXPERT_SCRATCH_BYTES,
    GROUP,
    LAYER,
    TOKEN_BATCH,
    offsets,
)
from edge_lfm.kernels.spec.schemes import FLOAT32

CTX, LAY = offsets(CONTEXT), offsets(LAYER)
FLOATS = FLOAT32.id


@kernel
def is_active(ctx, layer, e):
    """Whether an expert has tokens in this step and is to be computed now."""
    segments = i64(ctx + CTX.segments)
    present = i64(layer + LAY.is_moe) == 0 or i64(i64(ctx + CTX.present) + 8 * e) != 0
    return present and i64(segments + 8 * (e + 1)) > i64(segments + 8 * e)


@kernel
def gather_pairs(ctx, layer):
    """Copy the normed activations of each pair's token, so that an expert's tokens lie side by side.

    As int8, or as float32 where w1 and w3 are: with 8 experts a token and 2,048 columns, a step of 512 tokens would
    copy 34 MB of float32 a layer. Trinity Mini's prefill takes 0.974 of the time without them, and `gated`'s.
    """
    hidden, experts = i64(ctx + CTX.hidden), i64(ctx + CTX.experts)
    pairs = i64(i64(ctx + CTX.segments) + 8 * experts)
    scales, floats = hidden // GROUP * ACTIVATION_BYTES, i64(layer + LAY.gate_up_scheme) == FLOATS
    while True:
        first = claim(ctx, int64(16))
        if first >= pairs:
            return
        for p in range(first, smaller(first + 16, pairs)):
            t = i64(i64(ctx + CTX.pair_token) + 8 * p)
            if floats:
                copy_bytes(i64(ctx + CTX.pairs) + p * hidden * 4, i64(ctx + CTX.normed) + t * hidden * 4, hidden * 4)
                continue
            copy_bytes(i64(ctx + CTX.pairs_q) + p * hidden, i64(ctx + CTX.normed_q) + t * hidden, hidden)
            copy_bytes(i64(ctx + CTX.pairs_s) + p * scales, i64(ctx + CTX.normed_s) + t * scales, scales)


@kernel
def gate_bytes(ctx, layer):
    """Bytes of w1 and w3 in a block; w2 follows."""
    tiles = i64(layer + LAY.expert_width) // 16
    return 2 * tiles * tile_bytes(i64(layer + LAY.gate_up_scheme), i64(ctx + CTX.hidden))


@kernel
def biases_of(ctx, layer, block):
    """Where a block's biases lie, or 0 if it has none."""
    if i64(layer + LAY.ffn_bias) == 0:
        return int64(0)
    size = tile_bytes(i64(layer + LAY.down_scheme), i64(layer + LAY.expert_width))
    return block + gate_bytes(ctx, layer) + i64(ctx + CTX.hidden) // 16 * size


@kernel
def begin_at(biases, out, count):
    """What 16 rows are added to, for `count` pairs: their biases."""
    for m in range(count):
        store_f32(out.at + m * out.stride, load_f32(biases))


@kernel
def gated(layer, g, u):
    """What a gate g lets through of u, as the layer says; neither may be NaN."""
    if i64(layer + LAY.clamped) == 0:
        return silu(g) * u
    limit = splat_f32(f32(layer + LAY.gate_limit))
    g, u = min_f32(g, limit), max_f32(min_f32(u, limit), zero_f32() - limit)
    return g * sigmoid(splat_f32(f32(layer + LAY.gate_alpha)) * g) * (u + splat_f32(f32(layer + LAY.gate_plus)))


@kernel
def gate_up_rows(ctx, layer, block, first, last, row, x, shared, scratch):
    """32 rows of gated(w1 x, w3 x) for pairs [first, last) of one expert -> gated: int8, or float32 where w2 is.

    x: `operands.Inputs` of all pairs; `shared`: they have the same input, the one token of a decode step.
    """
    scheme, width, hidden = i64(layer + LAY.gate_up_scheme), i64(layer + LAY.expert_width), i64(ctx + CTX.hidden)
    size = tile_bytes(scheme, hidden)
    w, area = block + (row // 16) * 2 * size, scratch + EXPERT_SCRATCH_BYTES
    biases, clamped = biases_of(ctx, layer, block), i64(layer + LAY.clamped) != 0
    floats = i64(layer + LAY.down_scheme) == FLOATS
    for p in range(first, last, TOKEN_BATCH):
        count = smaller(int64(TOKEN_BATCH), last - p)
        inputs = from_token(x, int64(0) if shared else p, hidden)
        packed = pack_tokens(scheme, inputs, hidden, count, area)
        for tile in range(4):
            out = Outputs(scratch + tile * 64, int64(256), int64(1) if biases != 0 else int64(0))
            if biases != 0:
                begin_at(biases + (row // 16 * 2 + tile) * 64, out, count)
            multiply_tile(scheme, w + tile * size, inputs, hidden, out, count, packed)
        if clamped:  # a comparison loses a NaN
            check_below(ctx, scratch, count * 64, INFINITY_BITS)
        for m in range(count):
            s = scratch + m * 256
            a = gated(layer, load_f32(s), load_f32(s + 64))
            b = gated(layer, load_f32(s + 128), load_f32(s + 192))
            to = (p + m) * width + row
            if floats:
                store_f32(i64(ctx + CTX.gated) + to * 4, a)
                store_f32(i64(ctx + CTX.gated) + to * 4 + 64, b)
            round_group(ctx, a, b, i64(ctx + CTX.gated_q) + to, i64(ctx + CTX.gated_s) + to // GROUP * ACTIVATION_BYTES)


@kernel
def gate_up(ctx, layer, scratch):
    """The first phase: items are (active expert, 32 rows), drawn in order."""
    segments, experts = i64(ctx + CTX.segments), layer_experts(ctx, layer)
    width = i64(layer + LAY.expert_width)
    direct = i64(layer + LAY.is_moe) == 0 or i64(ctx + CTX.tokens) == 1
    if direct:
        x = Inputs(i64(ctx + CTX.normed), i64(ctx + CTX.normed_q), i64(ctx + CTX.normed_s))
    else:
        x = Inputs(i64(ctx + CTX.pairs), i64(ctx + CTX.pairs_q), i64(ctx + CTX.pairs_s))
    shared = i64(ctx + CTX.tokens) == 1
    items, e, begin = width // GROUP, int64(0), int64(0)  # items of expert e: [begin, begin + items)
    active_experts = int64(0)
    for other in range(experts):
        active_experts += 1 if is_active(ctx, layer, other) else 0
    while True:
        first, run = claim_run(ctx, items * active_experts)
        for item in range(first, first + run):
            while e < experts:
                active = is_active(ctx, layer, e)
                if active and item < begin + items:
                    break
                begin += items if active else 0
                e += 1
            if e == experts:
                return
            gate_up_rows(
                ctx,
                layer,
                i64(i64(layer + LAY.experts) + 8 * e),
                i64(segments + 8 * e),
                i64(segments + 8 * (e + 1)),
                (item - begin) * GROUP,
                x,
                shared,
                scratch,
            )


@kernel
def add_weighted(ctx, total, scratch, first, count, row):
    """total[token of pair] += weight * 16 rows, for `count` pairs from `first` on; total: float32 [T, H]."""
    hidden = i64(ctx + CTX.hidden)
    for m in range(count):
        t = i64(i64(ctx + CTX.pair_token) + 8 * (first + m))
        weight = f32(i64(ctx + CTX.pair_weight) + 4 * (first + m))
        at = total + (t * hidden + row) * 4
        store_f32(at, fma(splat_f32(weight), load_f32(scratch + m * 64), load_f32(at)))


@kernel
def down(ctx, layer, scratch):
    """The second phase: a run of output rows, over every active expert in rising order.

    Runs keep the reads of an expert side by side: with single tiles of 14 KB a decode step read 22 GB/s, not 26.
    """
    scheme, width, hidden = i64(layer + LAY.down_scheme), i64(layer + LAY.expert_width), i64(ctx + CTX.hidden)
    segments, experts = i64(ctx + CTX.segments), layer_experts(ctx, layer)
    size, before = tile_bytes(scheme, width), gate_bytes(ctx, layer)
    gated = Inputs(i64(ctx + CTX.gated), i64(ctx + CTX.gated_q), i64(ctx + CTX.gated_s))
    has_bias, total = i64(layer + LAY.ffn_bias), branch_sum(ctx, i64(layer + LAY.post_ffn_norm))
    out, area = Outputs(scratch, int64(64), has_bias), scratch + EXPERT_SCRATCH_BYTES
    while True:
        first, run = claim_run(ctx, hidden // 16)
        if first * 16 >= hidden:
            return
        for e in range(experts):
            if not is_active(ctx, layer, e):
                continue
            begin, end = i64(segments + 8 * e), i64(segments + 8 * (e + 1))
            block = i64(i64(layer + LAY.experts) + 8 * e)
            w, biases = block + before, biases_of(ctx, layer, block) + width * 8  # those of w1 and w3 come first
            for p in range(begin, end, TOKEN_BATCH):
                count, inputs = smaller(int64(TOKEN_BATCH), end - p), from_token(gated, p, width)
                packed = pack_tokens(scheme, inputs, width, count, area)
                for tile in range(first, smaller(first + run, hidden // 16)):
                    if has_bias != 0:
                        begin_at(biases + tile * 64, out, count)
                    multiply_tile(scheme, w + tile * size, inputs, width, out, count, packed)
                    add_weighted(ctx, total, scratch, p, count, tile * 16)


@kernel
def layer_experts(ctx, layer):
    """Number of experts of a layer: 1 for a dense FFN."""
    return i64(ctx + CTX.experts) if i64(layer + LAY.is_moe) != 0 else int64(1)
