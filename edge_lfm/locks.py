"""A folder for one process at a time. Knows no more than the folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone_in(folder: Path, wait: bool) -> Iterator[int]:
    """Keep other processes that ask for the same folder out of the block; without locks, as on some network file
    systems, nobody is kept out. Gives the folder's descriptor.

    wait: until the other has left.

    Raises:
        BlockingIOError: another process is there, and `wait` is false.
        OSError: there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield descriptor
    finally:
        os.close(descriptor)
