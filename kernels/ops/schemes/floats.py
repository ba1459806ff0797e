"""float32 weights: for each column of a tile its 16 rows. Multiplied by float32 activations."""

from edge_lfm.kernels.lang.register_tiles import fma_tile, zero_tile
from edge_lfm.kernels.lang.simd import f32, kernel, load_f32
from edge_lfm.kernels.ops.weights import SchemeKernels


def kernels_of(scheme):
    return SchemeKernels(scheme, float_tile, value)


def float_tile(count):
    """16 rows x `count` tokens; x: float32 [count, cols], s unused."""
    zeros, step = zero_tile(count), fma_tile(count)

    @kernel
    def tile(w, x, s, cols):
        total = zeros()
        for k in range(cols):
            total = step(total, load_f32(w + 64 * k), x + 4 * k, cols * 4)
        return total

    return tile


@kernel
def value(w, r, k):
    return f32(w + 64 * k + 4 * r)
