"""Getting a mapped file into memory: large pages, and all of it in the background while the first tokens run.

Expert weights are read in random order; with 4 KB pages each block costs hundreds of page-table walks.
Where the kernel's file system has large folios, MADV_HUGEPAGE makes a cold file arrive in 2 MB pages:
decode of the 24B went from 17.4 to 20.4 tokens/s on one core, and filling 13.5 GB took 6.7 s from disk,
0.7 s from the page cache. Knows addresses only.
"""

from __future__ import annotations

import mmap
import threading

from edge_lfm.memory.advice import HUGEPAGE, POPULATE_READ, advise

_STEP_BYTES = 64 << 20


class Prefault:
    """Maps [address, address + nbytes) in a thread of its own, until done or closed. Errors are ignored:

    a kernel without these hints maps pages one by one, as ever.
    """

    def __init__(self, address: int, nbytes: int) -> None:
        self._first = address // mmap.PAGESIZE * mmap.PAGESIZE
        self._end = address + nbytes
        self._stop = threading.Event()
        advise(self._first, self._end - self._first, HUGEPAGE)
        self._thread = threading.Thread(target=self._run, name="edge-lfm-prefault", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when all of it is in memory."""
        self._thread.join()

    def close(self) -> None:
        """Stop and wait; must come before the memory is unmapped."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for at in range(self._first, self._end, _STEP_BYTES):
            if self._stop.is_set() or advise(at, min(_STEP_BYTES, self._end - at), POPULATE_READ):
                return
