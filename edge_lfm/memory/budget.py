"""How much memory a model may take: sizes as people write them, what this machine has, what a model needs.

Knows cgroup limits and /proc/meminfo; does not know how experts are laid out.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path

from edge_lfm.errors import DoesNotFitError, UsageError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str | int) -> int:
    """Bytes from `4G`, `512MiB`, `1.5g` or a plain number (binary units).

    Raises:
        UsageError: it is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise UsageError(f"'{text}' is not a size", hint="write it like 4G, 512M or 4294967296")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process may use: free and reclaimable memory, within the cgroup's limit."""
    available = 1 << 62
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except OSError:
        pass
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = int((root / "sys/fs/cgroup" / limit).read_text(encoding="ascii"))
            used = int((root / "sys/fs/cgroup" / usage).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        available = min(available, max(0, most - used))
    return available


def check_budget(needed_bytes: int, ram: str | int | None) -> None:
    """Refuse a model that does not fit into the stated budget, or, without one, into this machine.

    Raises:
        DoesNotFitError: it does not.
    """
    budget = parse_size(ram) if ram is not None else available_memory()
    if needed_bytes > budget:
        whose = "the budget" if ram is not None else "the memory available"
        raise DoesNotFitError(
            f"the model needs {needed_bytes / (1 << 30):.2f} GiB, {whose} is {budget / (1 << 30):.2f} GiB",
            hint=f"{(needed_bytes - budget) / (1 << 30):.2f} GiB more, a smaller model, or a scheme with fewer bits",
        )


def peak_memory_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
