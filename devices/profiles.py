"""Device profiles: what boards and laptops have, from the TOML files of `profiles/`, each figure with its source.

An id names a file and a memory size: `rpi5-8g`, or `rpi5` for the largest. Knows no models.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from edge_lfm.errors import UsageError

SYSTEM_GB = 0.6
"""What a small Linux without a desktop takes of the memory, and the kernel hides of it."""


@dataclass(frozen=True)
class Device:
    """One device.

    target: what its kernels are compiled for (`targets.py`); read_gbps: what its fast cores read from memory, GB/s;
    int8_gops: peak of int8 multiply-adds, counted twice, 10^9 a second; prefill_share: of that peak, what a prefill
    reaches; storage: GB/s of large random reads."""

    id: str
    name: str
    cores: int
    core: str
    target: str
    memory_gb: tuple[float, ...]
    read_gbps: float
    int8_gops: float
    prefill_share: float
    page_kib: int
    storage: Mapping[str, float]
    default_storage: str
    notes: str
    sources: tuple[str, ...]

    @property
    def usable_bytes(self) -> int:
        """Memory for a model in the smallest variant that this profile has left."""
        return max(0, int((self.memory_gb[0] - SYSTEM_GB) * 1e9))


@cache
def profiles() -> dict[str, Device]:
    """Every profile by its file's name."""
    folder = files("edge_lfm.devices").joinpath("profiles")
    devices = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            devices[name] = read_profile(name, tomllib.loads(file.read_text(encoding="utf-8")))
    return devices


def find_device(text: str) -> Device:
    """The device of an id, with one memory size.

    Raises:
        UsageError: there is none of that name, or not with so much memory.
    """
    match = re.fullmatch(r"(.+?)(?:-(\d+)g)?", text.lower())
    name, size = (match[1], match[2]) if match else (text, None)
    known = profiles()
    if name not in known:
        raise UsageError(f"unknown device '{text}'", hint=f"known are {', '.join(known)}; edge-lfm devices lists them")
    device = known[name]
    memory = float(size) if size else max(device.memory_gb)
    if memory not in device.memory_gb:
        sizes = ", ".join(f"{name}-{m:g}g" for m in device.memory_gb)
        raise UsageError(f"{device.name} is not made with {memory:g} GB", hint=f"choose one of {sizes}")
    return replace(device, id=f"{name}-{memory:g}g", memory_gb=(memory,))


def read_profile(name: str, raw: Mapping[str, Any]) -> Device:
    """A profile from its TOML.

    Raises:
        UsageError: a field is missing, unknown, or not what it must be.
    """
    kinds: dict[str, Any] = {
        "name": str, "cores": int, "core": str, "target": str, "memory_gb": list, "read_gbps": float,
        "int8_gops": float, "prefill_share": float, "page_kib": int, "storage": dict, "default_storage": str,
        "notes": str, "sources": list,
    }  # fmt: skip
    wrong = sorted(set(raw) ^ set(kinds)) or [k for k, kind in kinds.items() if type(raw[k]) is not kind]
    if wrong:
        raise UsageError(
            f"the profile {name} has a missing, unknown or malformed field: {wrong[0]}", hint="see rpi5.toml"
        )
    numbers = [raw["cores"], raw["read_gbps"], raw["int8_gops"], raw["prefill_share"], raw["page_kib"]]
    numbers += [*raw["memory_gb"], *raw["storage"].values()]
    if not raw["memory_gb"] or not all(isinstance(n, int | float) and n > 0 for n in numbers):
        raise UsageError(f"the profile {name} has a number that is not positive", hint="see rpi5.toml")
    if raw["default_storage"] not in raw["storage"] or not raw["sources"]:
        raise UsageError(f"the profile {name} names no storage or no sources", hint="see rpi5.toml")
    fields = {**raw, "memory_gb": tuple(map(float, raw["memory_gb"])), "sources": tuple(raw["sources"])}
    return Device(id=name, **fields)
