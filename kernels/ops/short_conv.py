"""The gated short convolution: (B, C, x) -> C * conv(B * x), causal and depthwise, over a chunk of tokens.

c_t = sum over j of taps[j] * g[t - (L - 1) + j], with g = B * x; the L - 1 newest g are the state, oldest
first. No activation. (Lfm2MoeShortConv of transformers 5.23.)

Threads share channels, not tokens: whoever has drawn some walks all rows of the step in their order, each with the
state of its own sequence, so that every sequence's tokens come one after the other whatever stands between them.
"""

from numba import int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import fma, i64, kernel, load_f32, smaller, store_f32
from edge_lfm.kernels.lang.sync import claim
from edge_lfm.kernels.ops.activations import round_group
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, CONTEXT, GROUP, LAYER, ROW, STATE, offsets

CTX, LAY, STA, RW = offsets(CONTEXT), offsets(LAYER), offsets(STATE), offsets(ROW)
ROW_BYTES, STATE_BYTES = ROW.itemsize, STATE.itemsize


@kernel
def conv_lanes(bcx, hidden, taps, bias, state, history, width, channel):
    """16 channels of one token: returns C * c and shifts the state. bcx: float32 [3, hidden].

    history: 0, or where to note B * x.
    """
    at = 4 * channel
    row = 4 * hidden
    g = load_f32(bcx + at) * load_f32(bcx + 2 * row + at)
    if history != 0:
        store_f32(history + at, g)
    c = g * load_f32(taps + (width - 1) * row + at)
    for j in range(width - 1):
        older = load_f32(state + j * row + at)
        c = fma(older, load_f32(taps + j * row + at), c)
        if j > 0:
            store_f32(state + (j - 1) * row + at, older)
    if width > 1:
        store_f32(state + (width - 2) * row + at, g)
    if bias != 0:
        c = c + load_f32(bias + at)
    return load_f32(bcx + row + at) * c


@entry
def conv_tokens(ctx, layer, n):
    """All tokens of the step: wide float32 [T, 3H] -> mixed [T, H] and its int8 form; their states move on.

    `n`: the layer's number, in the states of each row's sequence.
    """
    hidden, width = i64(ctx + CTX.hidden), i64(layer + LAY.conv_width)
    taps, bias, rows = i64(layer + LAY.taps), i64(layer + LAY.taps_bias), i64(ctx + CTX.rows)
    wide, out = i64(ctx + CTX.wide), i64(ctx + CTX.mixed)
    out_q, out_s = i64(ctx + CTX.mixed_q), i64(ctx + CTX.mixed_s)
    while True:
        group = claim(ctx, int64(4))
        if group * GROUP >= hidden:
            return
        for g in range(group, smaller(group + 4, hidden // GROUP)):
            for t in range(i64(ctx + CTX.tokens)):
                bcx, row, step_row = wide + t * hidden * 12, t * hidden, rows + t * ROW_BYTES
                state, noted = i64(step_row + RW.states) + n * STATE_BYTES, i64(step_row + RW.noted)
                past = i64(state + STA.conv)
                note = i64(state + STA.history) + noted * hidden * 4 if noted >= 0 else int64(0)
                a = conv_lanes(bcx, hidden, taps, bias, past, note, width, g * GROUP)
                b = conv_lanes(bcx, hidden, taps, bias, past, note, width, g * GROUP + 16)
                at = row + g * GROUP
                store_f32(out + at * 4, a)
                store_f32(out + at * 4 + 64, b)
                round_group(ctx, a, b, out_q + at, out_s + at // GROUP * ACTIVATION_BYTES)
