"""RMSNorm, with the int8 form of its result: what every matmul begins with.

y = w * x / sqrt(mean(x**2) + eps)   (the Lfm2MoeRMSNorm of transformers 5.23, in float32)
"""

from math import sqrt

from numba import float32, int64

from edge_lfm.kernels.lang.simd import f32, fma, i64, kernel, load_f32, splat_f32, store_f32, sum_f32, zero_f32
from edge_lfm.kernels.lang.sync import claim
from edge_lfm.kernels.ops.activations import quantize_row
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, CONTEXT, GROUP, offsets

CTX = offsets(CONTEXT)


@kernel
def rms_norm(x, weight, out, width, eps):
    """One row of `width` values, a multiple of 16; x and out may be the same."""
    total = zero_f32()
    for i in range(0, width, 16):
        v = load_f32(x + 4 * i)
        total = fma(v, v, total)
    scale = splat_f32(float32(1.0) / float32(sqrt(sum_f32(total) / float32(width) + eps)))
    for i in range(0, width, 16):
        store_f32(out + 4 * i, load_f32(x + 4 * i) * scale * load_f32(weight + 4 * i))


@kernel
def norm_tokens(ctx, weight, first, count):
    """`count` tokens of the residual stream, from `first` on -> normed, normed_q, normed_s, from 0 on."""
    hidden = i64(ctx + CTX.hidden)
    while True:
        t = claim(ctx, int64(1))
        if t >= count:
            return
        out = i64(ctx + CTX.normed) + t * hidden * 4
        rms_norm(i64(ctx + CTX.x) + (first + t) * hidden * 4, weight, out, hidden, f32(ctx + CTX.norm_eps))
        quantize_row(
            ctx,
            out,
            i64(ctx + CTX.normed_q) + t * hidden,
            i64(ctx + CTX.normed_s) + t * hidden // GROUP * ACTIVATION_BYTES,
            hidden,
        )
