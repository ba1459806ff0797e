"""A checkpoint that lies on a hub: a tensor comes by a range of its file when it is read, and goes when it is packed.

Knows files, ranges and who fetches them; does not know the network. What is kept is what is being packed: some MB, of
the largest matrix some hundred.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.formats.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from edge_lfm.formats.strict import refusing

FetchRange = Callable[[int, int], bytes]
"""`(start, count)`: that many bytes of a file, from `start` on."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of safetensors on a hub. tag: of its content."""

    name: str
    size: int
    tag: str
    fetch: FetchRange


class RemoteSafetensors(SafetensorsFile):
    """A file whose ranges are fetched when they are looked at, and kept until they are forgotten.

    Raises:
        ModelFileError: its header is not sound.
        DownloadError: a range does not come.
    """

    def __init__(self, path: Path, remote: RemoteFile) -> None:
        self.path, self.size, self._remote = path, remote.size, remote
        self._kept: dict[tuple[int, int], NDArray[np.uint8]] = {}
        if self.size < 8:
            raise self.broken(f"it has only {self.size} bytes")
        start = remote.fetch(0, 8)
        length = min(int.from_bytes(start, "little"), MAX_HEADER_BYTES, self.size - 8)
        self._head = start + remote.fetch(8, length)
        with refusing(str(path)):
            self.tensors, self.metadata = self._read_header()

    def read_range(self, first: int, last: int) -> bytes:
        return self._head[first:last]

    def view(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        key = (start, start + nbytes)
        kept = self._kept.get(key)
        if kept is None:
            content = self._remote.fetch(start, nbytes) if nbytes else b""
            kept = self._kept[key] = np.frombuffer(content, np.uint8)
        return kept

    def forget_range(self, first: int, last: int) -> None:
        for start, end in list(self._kept):
            if first <= start and end <= last:
                self._kept.pop((start, end), None)

    def sample(self) -> bytes:
        """The header, and the tag of all the content."""
        return self.header() + hashlib.sha256(self._remote.tag.encode()).digest()

    def close(self) -> None:
        self._kept.clear()


class RemoteCheckpoint(FolderCheckpoint):
    """A folder with the config and the texts of a checkpoint, and weights that lie on the hub, or are here already.

    remote: files by name; what is not among them lies in `here`.
    """

    def __init__(self, folder: Path, remote: Mapping[str, RemoteFile], here: Mapping[str, Path]) -> None:
        self._remote, self._here = remote, here
        super().__init__(folder)

    def forget_bytes(self, name: str, first: int, last: int) -> None:
        """Keeps them: they would be fetched again, for the hash of a tensor is made after its packing."""

    def _open_shard(self, name: str) -> SafetensorsFile:
        if name in self._remote:
            return RemoteSafetensors(self.path / name, self._remote[name])
        return SafetensorsFile(self._here.get(name, self.path / name))
