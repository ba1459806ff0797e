"""Experts in the map of the model's file: pages of the system's cache, which other processes and the next start share.

A slot is a permission here, not memory: whoever holds it may have one block's pages mapped. A block comes by asking the
kernel to read all of it (MADV_WILLNEED) and to map it (MADV_POPULATE_READ), which reports a truncated file or a failing
disk as an error. Its pages leave this process when the slot is given to another block; the cache may keep them.
"""

from __future__ import annotations

import errno
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from edge_lfm.errors import ModelFileError
from edge_lfm.memory.advice import DONTNEED, HUGEPAGE, POPULATE_READ, WILLNEED, advise
from edge_lfm.memory.reader import READ_THREADS

_AROUND = 64 << 10
"""What Linux maps around a page that is asked for (fault_around_bytes). Left behind by each of the 24B's experts, it
would add up to 300 MB."""


class MappedStore:
    """Blocks of `block_bytes` of a file that is mapped at `address`."""

    def __init__(self, path: Path, address: int, nbytes: int, block_bytes: int) -> None:
        self.path, self.address, self.nbytes, self.block_bytes = path, address, nbytes, block_bytes
        self._held: dict[int, int] = {}  # slot -> offset
        advise(address, nbytes, HUGEPAGE)
        self._pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="edge-lfm-map")

    def begin(self, slot: int, offset: int) -> tuple[int, Future[None]]:
        """Let a slot hold the block at `offset`; its address, and a future of its being in memory."""
        self.release(slot)
        self._held[slot] = offset
        return self.address + offset, self._pool.submit(self._populate, offset)

    def release(self, slot: int) -> None:
        """Unmap what a slot holds, and what the kernel has mapped around it.

        A neighbour that loses its edge so gets it back from the system's cache when it is used.
        """
        offset = self._held.pop(slot, None)
        if offset is not None:
            first = max(0, offset - _AROUND) // mmap.PAGESIZE * mmap.PAGESIZE
            last = -(-min(self.nbytes, offset + self.block_bytes + _AROUND) // mmap.PAGESIZE) * mmap.PAGESIZE
            advise(self.address + first, last - first, DONTNEED)

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _populate(self, offset: int) -> None:
        first = offset // mmap.PAGESIZE * mmap.PAGESIZE
        length = -(-(offset + self.block_bytes - first) // mmap.PAGESIZE) * mmap.PAGESIZE
        advise(self.address + first, length, WILLNEED)
        code = advise(self.address + first, length, POPULATE_READ)
        if code not in (0, errno.EINVAL):  # EINVAL before Linux 5.14: pages are mapped one by one, as they are used
            why = "it ends there" if code == errno.EFAULT else os.strerror(code)
            raise ModelFileError(
                f"{self.path} cannot be read at byte {offset}: {why}", hint="was it truncated? check the disk"
            )
