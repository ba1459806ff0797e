"""Compilation targets: for each processor the ISA tier of its kernels and the pipeline that LLVM schedules for.

A device's profile names its target; a tier's own name is a target, too. Knows no compiler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_lfm.devices.profiles import profiles
from edge_lfm.errors import UsageError
from edge_lfm.kernels.spec.isa import TIERS, Isa, find_isa


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for. isa: the tier, with this target's processor; serves: where such processors are."""

    name: str
    isa: Isa
    serves: str


def _cpu(name: str, tier: str, serves: str) -> Target:
    return Target(name, replace(find_isa(tier), cpu=name), serves)


# Skylake-X and Cascade Lake: twice the registers for the arithmetic of AVX2. VNNI needs the tier avx512vnni.
_V4 = replace(
    find_isa("avx2"), cpu="x86-64-v4", requires=frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
)

TARGETS: tuple[Target, ...] = (
    _cpu("cortex-a53", "neon", "Raspberry Pi 3, Zero 2 W; no integer dot product"),
    _cpu("cortex-a72", "neon", "Raspberry Pi 4, RK3399; no integer dot product"),
    _cpu("cortex-a55", "dotprod", "RK3566, RK3568, little cores"),
    _cpu("cortex-a76", "dotprod", "Raspberry Pi 5, RK3588"),
    _cpu("cortex-a78", "dotprod", "Jetson Orin, phones and tablets of 2021"),
    _cpu("cortex-x1", "dotprod", "Snapdragon 888, 8cx Gen 3"),
    _cpu("cortex-x2", "i8mm", "Cortex-A510/A710/X2 and later"),
    _cpu("neoverse-n1", "dotprod", "AWS Graviton2, Ampere Altra"),
    _cpu("neoverse-v1", "i8mm", "AWS Graviton3"),
    _cpu("neoverse-n2", "i8mm", "Azure Cobalt, Graviton4-class servers"),
    _cpu("apple-m1", "dotprod", "Apple M1 under Linux"),
    _cpu("apple-m2", "i8mm", "Apple M2 and later under Linux"),
    Target("x86-64-v2", find_isa("ssse3"), "x86 of 2009 and later: Celeron, Atom"),
    Target("x86-64-v3", find_isa("avx2"), "x86 of 2013 and later"),
    Target("x86-64-v4", _V4, "AVX-512 without VNNI: Skylake-X, Cascade Lake"),
)


def find_target(name: str) -> Target:
    """The target of a processor's, a tier's or a device's name.

    Raises:
        UsageError: there is none.
    """
    asked = name.lower()
    targets = {tier.name: Target(tier.name, tier, "") for tier in TIERS} | {target.name: target for target in TARGETS}
    if asked in targets:
        return targets[asked]
    device = profiles().get(asked.rpartition("-")[0] if asked.endswith("g") and "-" in asked else asked)
    if device is None:
        raise UsageError(
            f"unknown target '{name}'",
            hint=f"devices: {', '.join(profiles())}; processors: {', '.join(targets)}",
        )
    return replace(targets[device.target], serves=device.name)
