"""RMSNorm, with the int8 form of its result: what every matmul begins with.

y = w * x / sqrt(mean(x**2) + eps)   (the Lfm2MoeRMSNorm of transformers 5.23, in float32)
"""

from math import sqrt

from numba import float32, int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import f32, fma, i64, kernel, load_f32, splat_f32, store_f32, sum_f32, zero_f32
from edge_lfm.kernels.lang.sync import claim
from edge_lfm.kernels.ops.activations import round_activations
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, CONTEXT, GROUP, ROW, offsets

CTX, RW = offsets(CONTEXT), offsets(ROW)
ROW_BYTES = ROW.itemsize


@kernel
def rms_norm(x, weight, out, width, eps):
    """One row of `width` values, a multiple of 16; x and out may be the same."""
    total = zero_f32()
    for i in range(0, width, 16):
        v = load_f32(x + 4 * i)
        total = fma(v, v, total)
    mean = sum_f32(total) / float32(width)
    # The last term is 0, or NaN where the squares overflow: their row would else become zeros, and no error.
    scale = splat_f32(float32(1.0) / float32(sqrt(mean + eps)) + mean * float32(0.0))
    for i in range(0, width, 16):
        store_f32(out + 4 * i, load_f32(x + 4 * i) * scale * load_f32(weight + 4 * i))


@kernel
def norm_row(ctx, weight, t, to):
    """Row `t` of the residual stream, float32 [H] -> row `to` of normed, normed_q and normed_s."""
    hidden = i64(ctx + CTX.hidden)
    out = i64(ctx + CTX.normed) + to * hidden * 4
    rms_norm(i64(ctx + CTX.x) + t * hidden * 4, weight, out, hidden, f32(ctx + CTX.norm_eps))
    round_activations(
        ctx,
        out,
        i64(ctx + CTX.normed_q) + to * hidden,
        i64(ctx + CTX.normed_s) + to * hidden // GROUP * ACTIVATION_BYTES,
        hidden,
    )


@kernel
def branch_sum(ctx, post_norm):
    """Where an operator or an FFN adds its result, float32 [T, H]: x, or `branch` if it is normed before (not 0)."""
    return i64(ctx + CTX.branch) if post_norm != 0 else i64(ctx + CTX.x)


@kernel
def add_branch(ctx, post_norm, t):
    """x += norm(branch) for row `t`, whose branch becomes 0; nothing without a norm. post_norm: float32 [H], or 0."""
    if post_norm == 0:
        return
    hidden = i64(ctx + CTX.hidden)
    x, branch = i64(ctx + CTX.x) + t * hidden * 4, i64(ctx + CTX.branch) + t * hidden * 4
    rms_norm(branch, post_norm, branch, hidden, f32(ctx + CTX.norm_eps))
    for i in range(0, hidden, 16):
        store_f32(x + 4 * i, load_f32(x + 4 * i) + load_f32(branch + 4 * i))
        store_f32(branch + 4 * i, zero_f32())


@entry
def norm_tokens(ctx, weight, post_norm):
    """Every row of the residual stream -> normed, normed_q, normed_s; weight: float32 [H].

    post_norm: of the branch before, which is added first (`add_branch`).
    """
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        add_branch(ctx, post_norm, t)
        norm_row(ctx, weight, t, t)


@kernel
def norm_asked(ctx, weight, post_norm):
    """The rows whose logits are asked for, close together: each to the row that its logits go to."""
    while True:
        t = claim(ctx, int64(1))
        if t >= i64(ctx + CTX.tokens):
            return
        to = i64(i64(ctx + CTX.rows) + t * ROW_BYTES + RW.logits)
        if to >= 0:
            add_branch(ctx, post_norm, t)
            norm_row(ctx, weight, t, to)
