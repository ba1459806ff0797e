"""A Hugging Face checkpoint folder: config, tokenizer files, and tensors in one file or in shards.

Knows the hub's layout; does not know what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.config import read_json
from edge_lfm.errors import ModelFileError
from edge_lfm.formats.safetensors import SafetensorsFile, TensorInfo

WEIGHT_DTYPES = ("BF16", "F16", "F32")

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
)
"""Files that a packed model takes over unchanged; the first is needed to turn text into tokens."""


@dataclass(frozen=True)
class _Place:
    file: SafetensorsFile
    info: TensorInfo


class Checkpoint:
    """An open checkpoint; a context manager.

    Raises:
        ModelFileError: the folder, a shard or the index is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise ModelFileError(f"{folder} {what}", hint="give the folder of a Hugging Face checkpoint")
        self.raw_config = read_json(folder / "config.json")
        self._files: list[SafetensorsFile] = []
        try:
            self.tensors = self._open()
        except ModelFileError:
            self.close()
            raise

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, or None if there is none of that name."""
        place = self.tensors.get(name)
        return place.info.shape if place else None

    def stored(self, name: str, index: int | None = None) -> NDArray[Any]:
        """A tensor as it is stored (uint16: bfloat16; float16 or float32), or one entry along its first axis; a view.

        Raises:
            ModelFileError: it is missing or has an unsupported dtype.
        """
        place = self._place(name)
        values: NDArray[Any] = place.file.stored(name, index)
        if place.info.dtype not in WEIGHT_DTYPES:
            raise ModelFileError(
                f"{place.file.path}: tensor {name} has dtype {place.info.dtype}",
                hint="weights must be BF16, F16 or F32; quantize from the original checkpoint",
            )
        return values

    def read(self, name: str, index: int | None = None) -> NDArray[np.float32]:
        """A tensor as float32, or one entry along its first axis.

        Raises:
            ModelFileError: it is missing, has an unsupported dtype, or holds NaN or infinity.
        """
        self.stored(name, index)
        values: NDArray[Any] = self._place(name).file.read(name, index)
        if not np.isfinite(values).all():
            raise self.not_finite(name)
        return values

    def not_finite(self, name: str) -> ModelFileError:
        """The error of a tensor with NaN or infinity."""
        return ModelFileError(
            f"{self._place(name).file.path}: tensor {name} holds NaN or infinity",
            hint="the checkpoint is damaged or its training diverged",
        )

    def fingerprint(self) -> str:
        """A hash of config, headers and samples of the weights: cheap, and different for a different checkpoint."""
        digest = hashlib.sha256(json.dumps(self.raw_config, sort_keys=True).encode())
        for file in self._files:
            digest.update(file.path.name.encode() + file.sample())
        return digest.hexdigest()

    def _place(self, name: str) -> _Place:
        place = self.tensors.get(name)
        if place is None:
            raise ModelFileError(f"{self.folder}: tensor {name} is missing", hint="is the checkpoint complete?")
        return place

    def forget(self, name: str, index: int | None = None) -> None:
        """Release the memory of a tensor that has been read, or of one entry along its first axis."""
        place = self.tensors[name]
        place.file.forget(place.info, index)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> dict[str, _Place]:
        index = self.folder / "model.safetensors.index.json"
        names = self._shards(index) if index.exists() else {"model.safetensors": None}
        found: dict[str, _Place] = {}
        for shard, expected in names.items():
            file = SafetensorsFile(self.folder / shard)
            self._files.append(file)
            for name in expected or ():
                if name not in file.tensors:
                    raise ModelFileError(
                        f"{file.path}: tensor {name} is missing, though {index.name} puts it there",
                        hint="download the checkpoint again",
                    )
            for name, info in file.tensors.items():
                if name in found:
                    raise ModelFileError(
                        f"{file.path}: tensor {name} stands in two shards",
                        hint="remove the files that do not belong to the checkpoint",
                    )
                found[name] = _Place(file, info)
        return found

    def _shards(self, index: Path) -> dict[str, set[str] | None]:
        """Shard file names of the index, with the tensors of each."""
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFileError(f"{index} has no weight_map", hint="download it again")
        shards: dict[str, set[str] | None] = {}
        for name, shard in weight_map.items():
            if not isinstance(shard, str) or not shard or Path(shard).name != shard or shard.startswith("."):
                raise ModelFileError(
                    f"{index} names the shard {shard!r:.80}, which is not a file beside it",
                    hint="do not use this checkpoint",
                )
            names = shards.setdefault(shard, set())
            assert names is not None
            names.add(name)
        return shards
