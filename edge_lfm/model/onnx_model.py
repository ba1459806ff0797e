"""A folder that `edge-lfm export --format onnx` made: its config, its graph, and what its graph is held in.

Knows files; does not know how a step runs.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from edge_lfm.architectures import read_shape
from edge_lfm.errors import ModelFileError
from edge_lfm.formats.strict import read_json

GRAPH = "model.onnx"


def is_onnx(folder: Path) -> bool:
    """Whether a folder holds an ONNX graph."""
    return (folder / GRAPH).is_file()


class OnnxModel:
    """An exported model.

    Raises:
        ModelFileError: the folder holds no graph, or no config.
        UnsupportedModelError: the config asks for something that is not implemented.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not is_onnx(folder):
            raise ModelFileError(
                f"{folder} holds no {GRAPH}",
                hint=f"export the packed model: edge-lfm export {folder} --format onnx -o OUT",
            )
        self.raw_config = read_json(folder / "config.json")
        self.shape = read_shape(self.raw_config, str(folder / "config.json"))

    @property
    def files(self) -> list[Path]:
        """The graph and its data."""
        return sorted(path for path in self.folder.iterdir() if path.name.startswith(GRAPH))

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of the graph, and of the size and samples of its data."""
        digest = hashlib.sha256()
        for path in self.files:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for at in range(0, size, max(1, size // 64)):
                    file.seek(at)
                    digest.update(file.read(4096))
        return digest.hexdigest()[:32]

    def close(self) -> None:
        """Nothing is held open."""
