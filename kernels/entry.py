"""The C-callable entry points of the kernel library: names and arities. Imports no Numba.

Every argument and result is int64: addresses, counts. This narrow table is all that the runtime knows
of the compiled code; a build for this processor and a prebuilt shared object fill it alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """`name` is the exported symbol less its prefix; `function` stands in `edge_lfm.kernels.<module>`."""

    name: str
    module: str
    arity: int

    @property
    def symbol(self) -> str:
        return f"edge_lfm_{self.name}"


ENTRIES: tuple[Entry, ...] = (
    Entry("forward", "forward", 4),  # ctx, thread, first stage, last stage
    Entry("encode_rows", "encode", 10),  # scheme, plain, dtype, x, importance, tiles, cols, out, errors, scratch
    # Single phases, for tests and benchmarks:
    Entry("multiply", "matmul", 9),  # ctx, matrix, f, q, s, out, out_stride, tokens, add
    Entry("quantize_row", "quantize", 5),  # ctx, x, q, s, cols
    Entry("norm_tokens", "norm", 4),  # ctx, weight, first, count
    Entry("conv_tokens", "short_conv", 3),  # ctx, layer, state
    Entry("prepare_heads", "attention", 3),  # ctx, layer, state
    Entry("attend_tokens", "attention", 3),  # ctx, state, scratch
    Entry("route", "router", 2),  # ctx, layer
    Entry("apply_ffn", "forward", 3),  # ctx, layer, scratch
    Entry("unpack_row", "embedding", 3),  # matrix, row, out
    Entry("exp_row", "maths", 3),  # x, out, count
    # What the hardware can do:
    Entry("read_bytes", "measure", 2),  # address, count
    Entry("dot_many", "measure", 2),  # address, rounds
)
