"""Telling the kernel about mapped memory: `madvise` without the interpreter lock, which mmap's own method holds."""

from __future__ import annotations

import ctypes

WILLNEED, DONTNEED, HUGEPAGE, POPULATE_READ = 3, 4, 14, 22  # Linux; Python has the last one from 3.13 on

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def advise(address: int, nbytes: int, advice: int) -> int:
    """0, or the error number; `address` is a multiple of the page size."""
    return 0 if _madvise(address, nbytes, advice) == 0 else ctypes.get_errno()
