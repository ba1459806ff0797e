"""The router: which experts a token goes to, and the tokens of a step sorted by expert.

s = sigmoid(router logits); the top k of s + bias (ties to the lower number); weights are s without the
bias, divided by their sum + 1e-6 if `normalize_routes`, times `route_scale`. (Lfm2MoeTopKRouter of
transformers 5.23.)
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.simd import (
    bits_of,
    f32,
    i64,
    kernel,
    largest_i32,
    load_f32,
    set_f32,
    set_i64,
    splat_i32,
    store_f32,
)
from edge_lfm.kernels.lang.sync import raise_error
from edge_lfm.kernels.ops.activations import NOT_FINITE
from edge_lfm.kernels.ops.maths import sigmoid
from edge_lfm.kernels.spec.layout import CONTEXT, LAYER, offsets

CTX, LAY = offsets(CONTEXT), offsets(LAYER)
SUM_GUARD = 1e-6
TAKEN = -3.0e38


@kernel
def choose(ctx, logits, bias, experts, top_k, normalize, scale, chosen, weights):
    """One token: logits float32 [experts padded to 16], overwritten -> chosen int64, weights float32 [top_k].

    The chosen experts are in falling order of score + bias.
    """
    for i in range(0, experts, 16):
        v = load_f32(logits + 4 * i)
        if largest_i32(bits_of(v) & splat_i32(int32(0x7FFFFFFF))) >= int32(0x7F800000):
            raise_error(ctx, int64(NOT_FINITE))
        store_f32(logits + 4 * i, sigmoid(v))
    total = float32(0.0)
    for k in range(top_k):
        best, best_score = int64(0), float32(TAKEN)
        for e in range(experts):
            score = f32(logits + 4 * e)
            if bias != 0:
                score += f32(bias + 4 * e)
            taken = False
            for j in range(k):
                if i64(chosen + 8 * j) == e:
                    taken = True
            if not taken and score > best_score:
                best, best_score = int64(e), score
        set_i64(chosen + 8 * k, best)
        set_f32(weights + 4 * k, f32(logits + 4 * best))
        total += f32(logits + 4 * best)
    for k in range(top_k):
        w = f32(weights + 4 * k)
        if normalize != 0:
            w = w / (total + float32(SUM_GUARD))
        set_f32(weights + 4 * k, w * scale)


@kernel
def check_bias(ctx, bias, experts):
    """Raise an error if a bias is not finite: comparing scores loses a NaN, and never takes an expert of -inf."""
    zero = float32(0.0)
    for e in range(experts):
        zero += f32(bias + 4 * e) * float32(0.0)
    if zero != float32(0.0):
        raise_error(ctx, int64(NOT_FINITE))


@kernel
def sort_pairs(chosen, weights, tokens, top_k, experts, segments, pair_token, pair_weight):
    """The (token, expert) pairs in order of expert, then token; segments int64 [experts + 1]."""
    for e in range(experts + 1):
        set_i64(segments + 8 * e, int64(0))
    for i in range(tokens * top_k):
        at = segments + 8 * (i64(chosen + 8 * i) + 1)
        set_i64(at, i64(at) + 1)
    for e in range(experts):
        set_i64(segments + 8 * (e + 1), i64(segments + 8 * e) + i64(segments + 8 * (e + 1)))
    # Fill each segment, moving its start on, then move the starts back.
    for i in range(tokens * top_k):
        at = segments + 8 * i64(chosen + 8 * i)
        pair = i64(at)
        set_i64(pair_token + 8 * pair, int64(i // top_k))
        set_f32(pair_weight + 4 * pair, f32(weights + 4 * i))
        set_i64(at, pair + 1)
    for e in range(experts, 0, -1):
        set_i64(segments + 8 * e, i64(segments + 8 * (e - 1)))
    set_i64(segments, int64(0))


@kernel
def one_segment(tokens, segments, pair_token, pair_weight):
    """The pairs of a dense FFN: one expert with weight 1, every token in order."""
    set_i64(segments, int64(0))
    set_i64(segments + 8, int64(tokens))
    for t in range(tokens):
        set_i64(pair_token + 8 * t, int64(t))
        set_f32(pair_weight + 4 * t, float32(1.0))


@kernel
def route(ctx, layer):
    """The whole step, by one thread: router_logits -> chosen, segments and pairs."""
    tokens, experts, top_k = i64(ctx + CTX.tokens), i64(ctx + CTX.experts), i64(ctx + CTX.top_k)
    segments, pair_token, pair_weight = i64(ctx + CTX.segments), i64(ctx + CTX.pair_token), i64(ctx + CTX.pair_weight)
    if i64(layer + LAY.is_moe) == 0:
        one_segment(tokens, segments, pair_token, pair_weight)
        return
    chosen, weights = i64(ctx + CTX.chosen), i64(ctx + CTX.chosen_weight)
    if i64(layer + LAY.router_bias) != 0:
        check_bias(ctx, i64(layer + LAY.router_bias), experts)
    for t in range(tokens):
        choose(
            ctx,
            i64(ctx + CTX.router_logits) + t * ((experts + 15) // 16) * 64,
            i64(layer + LAY.router_bias),
            experts,
            top_k,
            i64(ctx + CTX.normalize_routes),
            f32(ctx + CTX.route_scale),
            chosen + t * top_k * 8,
            weights + t * top_k * 4,
        )
    sort_pairs(chosen, weights, tokens, top_k, experts, segments, pair_token, pair_weight)
