"""How much memory a model may take: sizes as people write them, and the budget that one of them makes.

Does not know what a model needs, nor how the machine's memory is counted (`machine/memory.py`).
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass

from edge_lfm.errors import DoesNotFitError, UsageError
from edge_lfm.machine.memory import available_memory, memory_limit

RING_SLOTS = 16
"""Slots beyond what layers keep: two waves of reads, and more than any decode step misses in one layer."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str | int) -> int:
    """Bytes from `4G`, `512MiB`, `1.5g` or a plain number (binary units).

    Raises:
        UsageError: it is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    if not match or not 0 < float(match[1]) < 1e18:
        raise UsageError(f"'{text}' is not a size", hint="write it like 4G, 512M or 4294967296")
    return int(float(match[1]) * _UNITS[match[2].upper()])


RESERVE_BYTES = 512 << 20
"""What `auto` leaves to the rest of the machine at most, of an eighth of what is available."""


@dataclass(frozen=True)
class Budget:
    """The most memory that a model may take; `stated`: by the user, not by this machine."""

    nbytes: int
    stated: bool

    @classmethod
    def of(cls, ram: str | int | None) -> Budget:
        """From what the user said (`4G`, a number, `auto` or nothing).

        Raises:
            UsageError: it is not a size, or more than this process can ever have.
        """
        if ram is None or ram == "auto":
            available = available_memory()
            return cls(available - min(RESERVE_BYTES, available // 8), stated=False)
        stated, limit = parse_size(ram), memory_limit()
        if stated > limit.nbytes:  # the kernel would end the process with SIGKILL, and no message
            raise UsageError(
                f"a budget of {ram} is more than {limit.where}, {limit.nbytes / (1 << 30):.2f} GiB",
                hint="state less, or leave it out to use what is available",
            )
        return cls(stated, stated=True)

    def refuse(self, needed_bytes: int, hint: str) -> DoesNotFitError:
        """The error of a model that needs more."""
        whose = "the budget" if self.stated else "the memory available"
        gib = 1 << 30
        return DoesNotFitError(
            f"the model needs {needed_bytes / gib:.2f} GiB, {whose} is {self.nbytes / gib:.2f} GiB: "
            f"{(needed_bytes - self.nbytes) / gib:.2f} GiB are missing",
            hint=hint,
        )


@dataclass(frozen=True)
class PagingPlan:
    """How a budget is spent when experts are paged."""

    keep: int  # experts that are kept, of all layers together
    slots: int
    fixed_bytes: int  # trunk, KV cache, scratch, interpreter
    slot_bytes: int
    layers: int

    def changed(self, budget: Budget, experts: int, top_k: int) -> PagingPlan:
        """The same with another budget, which cannot be larger than the first.

        Raises:
            DoesNotFitError: it is too small.
        """
        return plan_paging(budget, self.fixed_bytes, self.slot_bytes, self.layers, experts, top_k)


def plan_paging(budget: Budget, fixed_bytes: int, slot_bytes: int, layers: int, experts: int, top_k: int) -> PagingPlan:
    """Slots for experts from what the fixed parts leave.

    Raises:
        DoesNotFitError: less than a step's experts of every layer would fit.
    """
    ring = min(RING_SLOTS, experts)
    floor = fixed_bytes + (ring + layers * top_k) * slot_bytes
    if budget.nbytes < floor:
        raise budget.refuse(floor, "more memory, a smaller --context, --kv-dtype int8, or a recipe with fewer bits")
    keep = min(experts * layers, (budget.nbytes - fixed_bytes) // slot_bytes - ring)
    return PagingPlan(keep, keep + ring, fixed_bytes, slot_bytes, layers)


def peak_memory_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
