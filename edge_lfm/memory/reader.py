"""Blocks of a file straight into memory: direct reads on a few threads, past the page cache.

O_DIRECT reads of whole experts reach the device's throughput at a third of the processor time of buffered ones, and
leave no second copy in the page cache. A file system without O_DIRECT gets buffered reads whose pages are dropped. A
short or failing read is an error of whoever waits for it. Knows offsets and addresses only.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ModelFileError

READ_ALIGNMENT = 4096
"""Offsets, lengths and addresses of direct reads are multiples of this, which covers every device's block size."""
READ_THREADS = 2


class BlockReader:
    """An open file; a context manager. `threads`: reads in flight at most."""

    def __init__(self, path: Path, threads: int = READ_THREADS) -> None:
        self.path = path
        self.bytes_read = 0
        self.busy_s = 0.0  # summed over reads
        self._lock = threading.Lock()
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_DIRECT)
            self.direct = True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise ModelFileError(f"{path} cannot be opened: {error.strerror}") from None
            self._file = os.open(path, os.O_RDONLY)
            self.direct = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="edge-lfm-read")

    def read(self, offset: int, nbytes: int, address: int) -> Future[None]:
        """Begin to read `nbytes` at `offset` (aligned) to `address` (aligned, with room for whole multiples).

        The future raises ModelFileError if the file ends before, or the device fails.
        """
        return self._pool.submit(self._read, offset, nbytes, address)

    def close(self) -> None:
        """Wait for reads under way, then close."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self, offset: int, nbytes: int, address: int) -> None:
        started, done = time.perf_counter(), 0
        length = -(-nbytes // READ_ALIGNMENT) * READ_ALIGNMENT
        view = memoryview((ctypes.c_char * length).from_address(address)).cast("B")
        while done < nbytes:
            try:
                count = os.preadv(self._file, [view[done:]], offset + done)
            except OSError as error:
                raise ModelFileError(
                    f"{self.path} cannot be read at byte {offset + done}: {error.strerror}", hint="check the disk"
                ) from None
            if count == 0:
                raise ModelFileError(
                    f"{self.path} ends at byte {offset + done}, inside a block", hint="was it truncated? copy it again"
                )
            done += count
            if self.direct and done < nbytes and done % READ_ALIGNMENT:
                raise ModelFileError(
                    f"{self.path} ends at byte {offset + done}, inside a block", hint="was it truncated? copy it again"
                )
        if not self.direct:
            os.posix_fadvise(self._file, offset, nbytes, os.POSIX_FADV_DONTNEED)
        with self._lock:
            self.bytes_read += nbytes
            self.busy_s += time.perf_counter() - started


class Slots:
    """`count` pieces of anonymous memory of at least `nbytes` each, aligned for direct reads and large pages."""

    def __init__(self, count: int, nbytes: int) -> None:
        self.slot_bytes = -(-nbytes // READ_ALIGNMENT) * READ_ALIGNMENT
        self.nbytes = count * self.slot_bytes
        self._map = mmap.mmap(-1, max(1, self.nbytes))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._keep = (ctypes.c_char * self.nbytes).from_buffer(self._map)
        self.address = ctypes.addressof(self._keep)

    def array(self) -> NDArray[np.uint8]:
        """All of the memory, as bytes."""
        return np.frombuffer(self._map, np.uint8)

    def address_of(self, slot: int) -> int:
        return self.address + slot * self.slot_bytes

    def release(self, slot: int) -> None:
        """Give a slot's pages back to the system."""
        first = -(-slot * self.slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (slot + 1) * self.slot_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


class SlotStore:
    """Blocks of `block_bytes` of a file, read into slots."""

    def __init__(self, reader: BlockReader, slots: Slots, block_bytes: int) -> None:
        self.reader, self.slots, self.block_bytes = reader, slots, block_bytes

    def begin(self, slot: int, offset: int) -> tuple[int, Future[None]]:
        """Let a slot hold the block at `offset`; its address, and a future of its being there."""
        address = self.slots.address_of(slot)
        return address, self.reader.read(offset, self.block_bytes, address)

    def release(self, slot: int) -> None:
        """Give a slot's memory back until it is used again."""
        self.slots.release(slot)

    def close(self) -> None:
        """Wait for reads under way; must come before the slots go."""
        self.reader.close()
