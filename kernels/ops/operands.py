"""What a product is computed from and where it goes, as records that exist while kernels are compiled.

Named tuples: in compiled code they are registers.
"""

from collections import namedtuple

from edge_lfm.kernels.lang.simd import kernel
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, GROUP

Inputs = namedtuple("Inputs", "f q s")
"""Addresses of activations: f, float32 [T, cols], for float32 weights; q and s, int8 [T, cols] and their ACTIVATION
records [T, cols / 32], for all others. What is not used may be 0."""

Outputs = namedtuple("Outputs", "at stride add")
"""Where 16 rows of float32 go: token t's to at + t * stride (bytes), overwritten, or added to where `add` is not 0."""

Packed = namedtuple("Packed", "area blocks")
"""A thread's memory for blocks, and the number of blocks of 16 tokens that are packed there (`blocks.py`)."""


@kernel
def from_token(x, t, cols):
    """The inputs from token t on."""
    return Inputs(x.f + t * cols * 4, x.q + t * cols, x.s + t * (cols // GROUP) * ACTIVATION_BYTES)


@kernel
def outputs_from(out, t):
    """The outputs from token t on."""
    return Outputs(out.at + t * out.stride, out.stride, out.add)
