"""How much memory a model may take: sizes as people write them, and the budget that one of them makes.

Does not know what a model needs, nor how the machine's memory is counted (`machine/memory.py`).
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass

from edge_lfm.errors import DoesNotFitError, UsageError
from edge_lfm.machine.memory import available_memory, memory_limit

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


_DECIMALS = {"K": 0, "M": 1, "G": 2, "T": 3}


def parse_size(text: str | int) -> int:
    """Bytes from `4G`, `512MiB`, `1.5g` or a plain number (binary units).

    Raises:
        UsageError: it is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    if not match or not 0 < float(match[1]) < 1e18:
        raise UsageError(f"'{text}' is not a size", hint="write it like 4G, 512M or 4294967296")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def unit_of(text: str | int) -> str:
    """The unit that a size was written in; G for a plain number."""
    letter = re.search(r"[KMGT]", str(text).upper())
    return letter[0] if letter else "G"


RESERVE_BYTES = 512 << 20
"""What `auto` leaves to the rest of the machine at most, of an eighth of what is available."""


@dataclass(frozen=True)
class Budget:
    """The most memory that a model may take.

    stated: by the user, not by this machine; unit: the one it was stated in, K, M, G or T, all of them binary.
    """

    nbytes: int
    stated: bool
    unit: str = "G"

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
        return cls(stated, stated=True, unit=unit_of(ram))

    def show(self, nbytes: int) -> str:
        """A number of bytes in the unit that the budget was stated in, as `3.50 GiB`."""
        return f"{nbytes / _UNITS[self.unit]:.{_DECIMALS[self.unit]}f} {self.unit}iB"

    def refuse(self, needed_bytes: int, hint: str) -> DoesNotFitError:
        """The error of a model that needs more."""
        whose = "the budget" if self.stated else "the memory available"
        return DoesNotFitError(
            f"the model needs {self.show(needed_bytes)}, {whose} is {self.show(self.nbytes)}: "
            f"{self.show(needed_bytes - self.nbytes)} are missing",
            hint=hint,
        )


def peak_memory_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
