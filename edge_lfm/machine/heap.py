"""Memory that the C library keeps after it was freed. For processes with many threads that live for weeks.

glibc gives threads heaps of their own, eight for each processor, and each keeps what its busiest moment took; its
threshold for mappings, which go back to the system when they are freed, rises to 32 MB with the first large one.
"""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
HEAPS = 2
MAPPED_BYTES = 1 << 20
"""Blocks from here on are mapped. Below lie the arrays of a step, which would cost a page fault for each 4 KB."""


def bound_heap() -> None:
    """Let the process keep little of what it has freed; nothing happens where the C library is not glibc."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, HEAPS)
        mallopt(_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, 4 * MAPPED_BYTES)


def trim_heap() -> None:
    """Give free pages back to the system, those between blocks in use too; takes some milliseconds."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
