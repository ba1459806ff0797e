"""The instruction-set tiers that the kernels are compiled for: names, LLVM targets, CPU requirements.

The one place that tells tiers apart: kernels and their lowering read the fields of `Isa`, never its name. Does not know
how an operation is lowered (`dots.py`, `lowering.py`) nor how a kernel is compiled (`compiler.py`). Imports no Numba.
"""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from edge_lfm.errors import IsaError


@dataclass(frozen=True)
class Isa:
    """One tier: what LLVM compiles for, what a processor must have, and the traits that kernels are built by."""

    name: str
    machine: str  # platform.machine()
    triple: str
    cpu: str
    features: str
    requires: frozenset[str]
    """Flags of /proc/cpuinfo without which the tier must not run."""
    token_tiles: tuple[int, ...]
    """Tokens per register tile of a matmul, largest first. Each needs a float32 and an int32
    accumulator of 16 lanes per token: 2 x 12 of AVX-512's 32 registers. Every size up to that: with 8 and 4 only, five
    tokens unpack weights twice, which costs 18 to 29 % on a Zen 4 core (ADR 40). With AVX2 the float32 ones of four
    tokens go to memory once a group, which costs less than unpacking weights for fewer tokens."""
    peak_tile: int
    """Tokens whose int32 accumulators stay in registers, for measuring the peak: 12 of AVX-512's 32 and of 16 elsewhere
    on x86, 24 of ARM's 32."""
    register_lanes: int
    """int32 lanes of a vector register."""
    dot: str
    """The instruction that products of bytes are made of: `vpdpbusd` and `sdot` add four products to int32 at once;
    `pmaddubsw` and `smull` leave int16, pairs or single ones; `widen`: plain multiplications of int16."""
    shuffle_bytes: int
    """Entries of the table of one byte shuffle: 64 is `vpermb`, 32 two tables of 16; 0: there is none."""
    has_float16: bool
    """Conversions between float16 and float32 in hardware."""
    ordered: str = "none"
    """Which dot products are computed in our order, four columns after the other, not in LLVM's: `none`, those of
    `looked_up` weights, or `all`. Where registers are few, LLVM's order, one token after another with all unpacked
    weights at hand, keeps some in memory: on a Zen 3 core int4 prefills at 133 GOPS with it, at 171 in our order. With
    AVX-512 it makes each token's address from the one before, an addition for each dot product: on an Emerald Rapids
    core a group of the codebook takes 26 ns for 8 tokens and 42 for 12 with it, 22 and 32 in our order."""
    token_by_token: bool = False
    """Order the tokens of a tile, too: 9 % for the codebook with four tokens on a Zen 3 core."""
    query_tiles: tuple[tuple[int, int], ...] = ((4, 1),)
    """Query rows, and vectors of keys or values, of a register tile of attention. The products are accumulators of 16
    lanes: 16 of AVX-512's 32 registers, and 8 of 16 elsewhere on x86."""
    inner_tile: tuple[int, int] = (2, 2)
    """Heads and latents of a register tile of dot products: their partial sums, and the latents, stay in registers.
    Also columns and vectors of rows of the outer products that spread errors of rounding (`ops/feedback.py`)."""
    starts_sums: bool = False
    """Whether sums of products start at what undoes the offset of levels (`ops/integer_tiles.py`), and rows' shifts are
    added to the levels, which the int16 of other tiers have no room for. That is eight additions a group and register
    of rows. Twelve tokens save more than that; for three, llvm-mca counts 10 % more on a Neoverse N1."""
    lane_rows: int = 0
    """Rows whose sums with 16 tokens stay in registers (`lanes.py`); 0: the tier has no use for it."""
    has_byte_tiles: bool = False
    """Products of tiles of bytes in hardware, AMX's: 16 tokens x columns times columns x 16 rows."""
    slow_schemes: tuple[str, ...] = ()
    """Schemes that the tier unpacks slower than a core's share of memory delivers: `fit` does not propose them."""
    is_fallback: bool = False
    """Better tiers need instructions that this processor lacks; its prefill is slow."""

    @property
    def rounds_queries(self) -> bool:
        """Whether int8 keys are multiplied as bytes (`ops/integer_scores.py`). Where products have to be widened first,
        multiply-adds of float32 take fewer instructions."""
        return self.dot in ("vpdpbusd", "sdot")


# Ice Lake, Zen 4 and later. Cascade Lake has VNNI without VBMI's byte permutation and takes the avx2 tier.
_AVX512 = frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni", "avx512vbmi"))
_SLOW = ("pair5_g32",)
"""Look-ups among 32 entries take two shuffles and a blend without VBMI: 14 GB/s a core with AVX2 on Zen 5, where
`code3_g32` has 24 and memory 39; four Cortex-A76, with tables of two registers, unpack 16.5 where a board reads 10."""
_X86 = ("x86_64", "x86_64-unknown-linux-gnu")
_ARM = ("aarch64", "aarch64-unknown-linux-gnu")
# From Cortex-A55 and A75 on, all of them together; LLVM then uses LSE atomics and load-acquire RCpc, too.
_ARM82 = frozenset(("asimddp", "atomics", "lrcpc"))

_VNNI = Isa(
    "avx512vnni", *_X86, "x86-64-v4", "+avx512vnni,+avx512vbmi", _AVX512, tuple(range(12, 0, -1)), 12,
    register_lanes=16, dot="vpdpbusd", shuffle_bytes=64, has_float16=True, ordered="all", token_by_token=True,
    query_tiles=((4, 4), (8, 2), (16, 1)), inner_tile=(4, 4), starts_sums=True,
)  # fmt: skip

TIERS: tuple[Isa, ...] = (
    replace(
        _VNNI, name="amx", features=_VNNI.features + ",+amx-tile,+amx-int8",
        requires=_AVX512 | {"amx_tile", "amx_int8"}, has_byte_tiles=True,
    ),
    _VNNI,
    Isa(
        "avxvnni", *_X86, "x86-64-v3", "+avxvnni", frozenset({"avx2", "fma", "f16c", "avx_vnni"}), (4, 3, 2, 1), 6,
        register_lanes=8, dot="vpdpbusd", shuffle_bytes=32, has_float16=True, ordered="looked_up", slow_schemes=_SLOW,
    ),
    Isa(
        "avx2", *_X86, "x86-64-v3", "", frozenset({"avx2", "fma", "f16c", "bmi2"}), (4, 3, 2, 1), 6,
        register_lanes=8, dot="pmaddubsw", shuffle_bytes=32, has_float16=True,
        ordered="all", token_by_token=True, lane_rows=4, slow_schemes=_SLOW,
    ),
    Isa(
        "ssse3", *_X86, "x86-64-v2", "", frozenset({"ssse3", "sse4_1"}), (2, 1), 3,
        register_lanes=4, dot="pmaddubsw", shuffle_bytes=16, has_float16=False, lane_rows=2, slow_schemes=_SLOW,
        is_fallback=True,
    ),
    Isa(
        "portable", *_X86, "x86-64", "", frozenset(), (2, 1), 3,
        register_lanes=4, dot="widen", shuffle_bytes=0, has_float16=False, slow_schemes=_SLOW,
        is_fallback=True,
    ),
    # Not SVE: Apple's M2 and later have i8mm without it.
    Isa(
        "i8mm", *_ARM, "cortex-x2", "+i8mm,+dotprod,-sve", _ARM82 | {"i8mm"}, (3, 2, 1), 6,
        register_lanes=4, dot="sdot", shuffle_bytes=16, has_float16=True, ordered="looked_up",
    ),
    Isa(
        "dotprod", *_ARM, "cortex-a76", "+dotprod", _ARM82, (3, 2, 1), 6,
        register_lanes=4, dot="sdot", shuffle_bytes=16, has_float16=True, ordered="looked_up", token_by_token=True,
    ),
    Isa(
        "neon", *_ARM, "cortex-a53", "", frozenset({"asimd"}), (2, 1), 6,
        register_lanes=4, dot="smull", shuffle_bytes=16, has_float16=True, ordered="looked_up", is_fallback=True,
    ),
)  # fmt: skip
"""Every tier, best first within a machine. `portable` runs on any x86-64, `neon` on any AArch64."""


# Linux's bits of AT_HWCAP and AT_HWCAP2 (arch/arm64/include/uapi/asm/hwcap.h).
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ARM_BITS = (
    ("asimd", _AT_HWCAP, 1),
    ("atomics", _AT_HWCAP, 8),
    ("lrcpc", _AT_HWCAP, 15),
    ("asimddp", _AT_HWCAP, 20),
    ("i8mm", _AT_HWCAP2, 13),
)


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Linux's numbers of a system call, of what it is asked, ARCH_REQ_XCOMP_PERM, and of the state of AMX's tiles
(arch/x86/include/uapi/asm/prctl.h and asm/fpu/types.h)."""
_TILE_FLAGS = frozenset(("amx_tile", "amx_int8"))


def _tiles_are_granted() -> bool:
    """Ask Linux to let the threads of this process use tiles: it saves their 8 KB only for who has asked."""
    system_call = ctypes.CDLL(None).syscall
    system_call.restype, system_call.argtypes = ctypes.c_long, [ctypes.c_long] * 3
    return bool(system_call(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


@cache
def processor_flags() -> frozenset[str]:
    """The features that this processor has and Linux lets this process use, by their names in /proc/cpuinfo.

    On ARM from the kernel's auxiliary vector: what every core of the system can run, under emulation too.
    """
    if platform.machine() == "aarch64":
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
        return frozenset(name for name, vector, bit in _ARM_BITS if getauxval(vector) >> bit & 1)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            flags = frozenset(value.split())
            return flags if not flags >= _TILE_FLAGS or _tiles_are_granted() else flags - _TILE_FLAGS
    return frozenset()


def find_isa(name: str) -> Isa:
    """The tier called `name`, whether or not this machine can run it."""
    for isa in TIERS:
        if isa.name == name:
            return isa
    raise IsaError(f"unknown ISA tier '{name}'", hint=f"choose one of {', '.join(t.name for t in TIERS)}")


def runnable_tiers() -> tuple[Isa, ...]:
    """The tiers that this processor can run, best first."""
    machine, flags = platform.machine(), processor_flags()
    return tuple(t for t in TIERS if t.machine == machine and t.requires <= flags)


def select_isa(name: str | None = None) -> Isa:
    """The tier to use: `name`, else `EDGE_LFM_ISA`, else the best one.

    Raises:
        IsaError: the tier is unknown, or this processor lacks a feature that it needs.
    """
    asked = name or os.environ.get("EDGE_LFM_ISA")
    able = runnable_tiers()
    if asked:
        isa = find_isa(asked)
        if isa not in able:
            missing = ", ".join(sorted(isa.requires - processor_flags())) or f"a {isa.machine} processor"
            choice = ", ".join(t.name for t in able) or "none"
            raise IsaError(
                f"this processor cannot run the ISA tier '{asked}': it lacks {missing}",
                hint=f"unset EDGE_LFM_ISA, or choose one of: {choice}",
            )
        return isa
    if not able:
        raise IsaError(f"no ISA tier for {platform.machine()}", hint="edge-lfm runs on x86-64 and on 64-bit ARM")
    return able[0]
