"""The C-callable entry points of the kernel library: names and arguments. Imports no Numba.

Every argument and result is int64: addresses, counts. This narrow table is all that the runtime knows
of the compiled code; a build for this processor and a prebuilt shared object fill it alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """`name` is the exported symbol less its prefix, and that of the function in `edge_lfm.kernels.ops.<module>`."""

    name: str
    module: str
    arguments: tuple[str, ...]

    @property
    def symbol(self) -> str:
        return symbol_of(self.name)


def symbol_of(name: str) -> str:
    """The C symbol of a kernel."""
    return f"edge_lfm_{name}"


def _entry(name: str, module: str, arguments: str) -> Entry:
    return Entry(name, module, tuple(arguments.split()))


ENTRIES: tuple[Entry, ...] = (
    _entry("forward", "forward", "ctx thread first_stage last_stage"),
    _entry("encode_rows", "encode", "scheme plain dtype x importance tiles cols out errors scratch"),
    _entry("round_in_turn", "feedback", "task"),
    _entry("descend", "feedback", "task"),
    _entry("correlate_blocks", "feedback", "task"),
    # Single phases, for tests and benchmarks:
    _entry("multiply", "matmul", "ctx product area"),
    _entry("round_activations", "activations", "ctx x q s cols"),
    _entry("norm_tokens", "norm", "ctx weight post_norm"),
    _entry("conv_tokens", "short_conv", "ctx layer n"),
    _entry("prepare_heads", "attention", "ctx layer n"),
    _entry("attend_tokens", "attention", "ctx layer n scratch"),
    _entry("attend_latents", "latent_heads", "ctx layer n scratch"),
    _entry("route", "router", "ctx layer"),
    _entry("apply_ffn", "forward", "ctx layer scratch"),
    _entry("unpack_row", "embedding", "matrix row out"),
    _entry("exp_row", "maths", "x out count"),
    _entry("exp_below_row", "maths", "x out count"),
    # Mapped files that lose pages:
    _entry("fault_area", "faults", ""),
    _entry("on_fault", "faults", "signal info context"),
    # What the hardware can do:
    _entry("read_bytes", "measure", "address count"),
    _entry("dot_many", "measure", "address rounds"),
    _entry("fma_many", "measure", "address rounds"),
)
