"""Mapped files that lose pages: a truncated file or a failing disk is an error of the request, not the end of all.

Reading a page that is not there raises SIGBUS in whatever thread does so. The handler (`kernels/ops/faults.py`) is
compiled code: it puts zeros there and counts. Knows addresses only.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import threading

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.spec.layout import FAULT_PAGE, FAULT_RANGES

_SA_SIGINFO, _SA_NODEFER, _SA_ONSTACK = 4, 0x40000000, 0x08000000
_lock = threading.Lock()
_installed: list[Kernels] = []  # whose handler this process has


class _SigAction(ctypes.Structure):
    """`struct sigaction` of glibc and musl on 64-bit machines."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class MapGuard:
    """Watches [address, address + nbytes) of a mapped file until closed."""

    def __init__(self, kernels: Kernels, address: int, nbytes: int) -> None:
        with _lock:
            if not _installed:
                _install(kernels)
            ranges = _ranges(_installed[0])
            free = np.flatnonzero(ranges[:, 1] == 0)
            # More models at once than there are ranges: those are not watched.
            self._range = ranges[free[0]] if free.size else np.zeros(3, np.int64)
            self._range[:] = address, 0, 0
            self._range[1] = address + nbytes  # last: the handler sees a range when it is whole

    @property
    def lost_pages(self) -> int:
        """Faults so far. More than none: some of the file's bytes now read as zeros, for good."""
        return int(self._range[2])

    def close(self) -> None:
        """Watch no longer; must come before the memory is unmapped."""
        with _lock:
            self._range[1] = 0
            self._range = self._range.copy()  # the range may be another's from now on


def _ranges(kernels: Kernels) -> NDArray[np.int64]:
    """The ranges that the handler looks at: first address, end, faults."""
    area = (ctypes.c_int64 * (FAULT_PAGE // 8)).from_address(kernels.fault_area())
    return np.ctypeslib.as_array(area).reshape(FAULT_RANGES, 3)


def _install(kernels: Kernels) -> None:
    page = ctypes.c_int64.from_address(kernels.fault_area() + FAULT_PAGE)
    page.value = mmap.PAGESIZE
    handler = ctypes.cast(kernels.table["on_fault"], ctypes.c_void_p).value  # type: ignore[arg-type]
    action = _SigAction(handler=handler, flags=_SA_SIGINFO | _SA_NODEFER | _SA_ONSTACK)
    ctypes.CDLL(None).sigaction(int(signal.SIGBUS), ctypes.byref(action), None)
    _installed.append(kernels)  # kept for ever: the handler must stay
