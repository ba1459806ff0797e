"""The router: which experts a token goes to, and the tokens of a step sorted by expert.

s = sigmoid(router logits), or their softmax over all experts; the top k of s + bias (ties to the lower number); weights
are s without the bias, divided by their sum + guard if `normalize`, times `route_scale`. (Lfm2MoeTopKRouter and
Qwen3MoeTopKRouter of transformers 5.24; defined in `spec/routing.py`.)
"""

from numba import float32, int32, int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import (
    bits_of,
    f32,
    first_lanes,
    i64,
    kernel,
    lane_numbers,
    largest_f32,
    largest_i32,
    load_f32,
    max_f32,
    set_f32,
    set_i64,
    smaller,
    splat_f32,
    splat_i32,
    store_f32,
    sum_f32,
    where_above,
    zero_f32,
)
from edge_lfm.kernels.lang.sync import raise_error
from edge_lfm.kernels.ops.activations import NOT_FINITE
from edge_lfm.kernels.ops.maths import exp, sigmoid
from edge_lfm.kernels.spec.layout import CONTEXT, EXPERTS_READ, LAYER, offsets

CTX, LAY = offsets(CONTEXT), offsets(LAYER)
NOTHING = float("-inf")
"""Below every score: what pads them, and what has been chosen."""


@kernel
def check_logits(ctx, logits, experts):
    """Raise an error if a router's logit is not finite."""
    for i in range(0, experts, 16):
        v = load_f32(logits + 4 * i)
        if largest_i32(bits_of(v) & splat_i32(int32(0x7FFFFFFF))) >= int32(0x7F800000):
            raise_error(ctx, int64(NOT_FINITE))


@kernel
def soften_logits(logits, experts):
    """Logits float32 [experts padded to 16] -> their softmax; what pads them becomes 0."""
    top = splat_f32(float32(NOTHING))
    for i in range(0, experts, 16):
        v = first_lanes(load_f32(logits + 4 * i), int32(smaller(experts - i, int64(16))))
        store_f32(logits + 4 * i, v)
        top = max_f32(top, v)
    peak, total = splat_f32(largest_f32(top)), zero_f32()
    for i in range(0, experts, 16):
        e = exp(load_f32(logits + 4 * i) - peak)
        store_f32(logits + 4 * i, e)
        total = total + e
    share = splat_f32(float32(1.0) / sum_f32(total))
    for i in range(0, experts, 16):
        store_f32(logits + 4 * i, load_f32(logits + 4 * i) * share)


@kernel
def find_best(scores, bias, experts):
    """The expert of the highest score + bias, of equal ones the lowest. bias: float32 [experts padded to 16], or 0.

    Each of 16 lanes keeps the best of every sixteenth expert, and its number, exact in a float32.
    """
    best, number = splat_f32(float32(NOTHING)), lane_numbers()
    for i in range(0, experts, 16):
        worth = load_f32(scores + 4 * i)
        if bias != 0:
            worth = worth + load_f32(bias + 4 * i)
        worth = first_lanes(worth, int32(smaller(experts - i, int64(16))))
        number = where_above(worth, best, lane_numbers() + splat_f32(float32(i)), number)
        best = max_f32(worth, best)
    top = splat_f32(largest_f32(best))
    behind = where_above(top, best, splat_f32(float32(NOTHING)), zero_f32() - number)
    return int64(-largest_f32(behind))


@kernel
def worth_of(scores, bias, e):
    """The score of an expert and its bias, float32; bias: 0 if there are none."""
    return f32(scores + 4 * e) + f32(bias + 4 * e) if bias != 0 else f32(scores + 4 * e)


@kernel
def best_groups(scores, bias, size, groups, kept):
    """The bits of `kept` groups of `size` experts, whose two best have the greatest sums; of equal ones the first."""
    bits = int64(0)
    for _k in range(kept):
        best, most = int64(-1), float32(NOTHING)
        for g in range(groups):
            first, second = float32(NOTHING), float32(NOTHING)
            for e in range(g * size, (g + 1) * size):
                worth = worth_of(scores, bias, e)
                if worth > first:
                    first, second = worth, first
                elif worth > second:
                    second = worth
            if (bits >> g) & 1 == 0 and (best < 0 or first + second > most):
                best, most = int64(g), first + second
        bits |= int64(1) << best
    return bits


@kernel
def find_best_of(scores, bias, experts, size, bits):
    """As `find_best`, of experts whose group of `size` has its bit."""
    best, most = int64(-1), float32(NOTHING)
    for e in range(experts):
        worth = worth_of(scores, bias, e)
        if (bits >> (e // size)) & 1 != 0 and worth > most:
            best, most = int64(e), worth
    return best


@kernel
def choose(ctx, layer, logits, experts, top_k, chosen, weights):
    """One token: logits float32 [experts padded to 16], which become scores -> chosen int64, weights float32 [top_k].

    The chosen experts are in falling order of score + bias.
    """
    bias, normalize = i64(layer + LAY.router_bias), i64(layer + LAY.normalize)
    guard, scale = f32(layer + LAY.guard), f32(layer + LAY.route_scale)
    check_logits(ctx, logits, experts)
    if i64(layer + LAY.softmax) != 0:
        soften_logits(logits, experts)
    else:
        for i in range(0, experts, 16):
            store_f32(logits + 4 * i, sigmoid(load_f32(logits + 4 * i)))
    groups, bits, total = i64(layer + LAY.groups), int64(0), float32(0.0)
    if i64(layer + LAY.kept_groups) < groups:
        bits = best_groups(logits, bias, experts // groups, groups, i64(layer + LAY.kept_groups))
    for k in range(top_k):
        if bits != 0:
            best = find_best_of(logits, bias, experts, experts // groups, bits)
        else:
            best = find_best(logits, bias, experts)
        score = f32(logits + 4 * best)
        set_i64(chosen + 8 * k, best)
        set_f32(weights + 4 * k, score)
        set_f32(logits + 4 * best, float32(NOTHING))
        total += score
    for k in range(top_k):
        w = f32(weights + 4 * k)
        set_f32(logits + 4 * i64(chosen + 8 * k), w)
        if normalize != 0:
            w = w / (total + guard)
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
def count_experts(ctx, segments, experts):
    """Add the experts that have tokens in this layer to those that the step reads."""
    at = i64(ctx + CTX.sync) + EXPERTS_READ
    for e in range(experts):
        if i64(segments + 8 * (e + 1)) > i64(segments + 8 * e):
            set_i64(at, i64(at) + 1)


@kernel
def one_segment(tokens, segments, pair_token, pair_weight):
    """The pairs of a dense FFN: one expert with weight 1, every token in order."""
    set_i64(segments, int64(0))
    set_i64(segments + 8, int64(tokens))
    for t in range(tokens):
        set_i64(pair_token + 8 * t, int64(t))
        set_f32(pair_weight + 4 * t, float32(1.0))


@entry
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
        logits = i64(ctx + CTX.router_logits) + t * ((experts + 15) // 16) * 64
        choose(ctx, layer, logits, experts, top_k, chosen + t * top_k * 8, weights + t * top_k * 4)
    sort_pairs(chosen, weights, tokens, top_k, experts, segments, pair_token, pair_weight)
    count_experts(ctx, segments, experts)
