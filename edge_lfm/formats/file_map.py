"""A regular file, mapped for reading: what both containers of weights stand on. Knows no format."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ModelFileError


class FileMap:
    """An open, mapped file; a context manager.

    Raises:
        ModelFileError: the file is missing, is no regular file, or is shorter than `least_bytes`.
    """

    KIND = "file"
    """What the file is to be, for messages."""

    def __init__(self, path: Path, least_bytes: int = 1) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not block
        except FileNotFoundError:
            raise ModelFileError(f"{path} does not exist", hint="is the download complete?") from None
        except (OSError, ValueError) as error:  # the latter: a NUL or a lone surrogate in the name
            why = getattr(error, "strerror", None) or error
            raise ModelFileError(f"{str(path)!r:.200} cannot be opened: {why}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path} is not a regular file", hint=f"give a {self.KIND} file")
            self.size = status.st_size
            if self.size < least_bytes:
                raise self.broken(f"it has only {self.size} bytes")
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)

    @property
    def span(self) -> tuple[int, int]:
        """Address and bytes of the map."""
        return np.frombuffer(self._map, np.uint8).ctypes.data, self.size

    def view(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of the file, a view of the map."""
        return np.frombuffer(self._map, np.uint8, nbytes, start)

    def read_range(self, first: int, last: int) -> bytes:
        """Bytes [first, last) of the file, a copy."""
        return self._map[first:last]

    def forget_range(self, first: int, last: int) -> None:
        """Tell the kernel that bytes [first, last) are not needed again (keeps resident memory low)."""
        page = mmap.PAGESIZE
        start = -(-first // page) * page
        length = last // page * page - start
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def broken(self, why: str) -> ModelFileError:
        """The error of a file that is not what it should be."""
        return ModelFileError(f"{self.path} is not a sound {self.KIND} file: {why}", hint="copy or download it again")

    def close(self) -> None:
        """Unmap the file; if arrays still look into it, that happens when the last of them goes."""
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
