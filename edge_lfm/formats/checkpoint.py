"""Checkpoints: where a quantizer's weights come from. The base of all kinds, and the hub's folder of safetensors files.

Knows the hub's layout; does not know what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_lfm.architectures import family_of, read_shape, text_part
from edge_lfm.errors import ModelFileError
from edge_lfm.formats import float8, mxfp4, tiktoken
from edge_lfm.formats.safetensors import SafetensorsFile, TensorInfo
from edge_lfm.formats.strict import read_bytes, read_json
from edge_lfm.shape import Shape

WEIGHT_DTYPES = ("BF16", "F16", "F32")

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
)
"""Files that a packed model takes over unchanged; the first is needed to turn text into tokens."""
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "License.txt")
"""Taken over as well: many licences ask that they go with what is made of the weights."""
_LICENCE_TITLE = 120
"""Characters of a licence's first line that are told."""


_TEXT = re.compile(r"model\.language_model\.|language_model\.model\.")
"""What tensors of the language model begin with in a model that sees or hears as well."""
_HEAD = "lm_head.weight"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".npz", ".onnx")
_SHARD = re.compile(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,254}")


class HubCheckpoint(ABC):
    """An open checkpoint; a context manager. Tensors go by the names that they are stored under."""

    path: Path
    raw_config: dict[str, Any]
    text_files: dict[str, bytes]
    """Contents of those of `TOKENIZER_FILES` and `LICENCE_FILES` that it has."""
    left_out = ""
    """A sentence about parts of the model that are not read; empty: there are none."""

    @property
    @abstractmethod
    def config_source(self) -> str:
        """Where the config comes from, for messages."""

    @property
    @abstractmethod
    def names(self) -> Set[str]:
        """Of all tensors."""

    def stored_name(self, name: str) -> str:
        """What this checkpoint calls a tensor with this canonical name."""
        return name

    @property
    def rows_in_turn(self) -> bool:
        """As of `Family`."""
        return False

    def drafting_layers(self, count: int) -> tuple[str, ...]:
        """What the names of tensors begin with that belong to layers behind the model's `count`, which draft."""
        return ()

    @abstractmethod
    def tensor_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, or None if there is none of that name."""

    @abstractmethod
    def stored(self, name: str, index: int | None = None) -> NDArray[Any]:
        """A tensor as it is stored (uint16: bfloat16; float16 or float32), or one entry along its first axis.

        A view; of quantized tensors, and of float8 with its scales, their values as float32.

        Raises:
            ModelFileError: it is missing or has an unsupported dtype.
        """

    def raw(self, name: str, index: int | None = None) -> NDArray[np.uint8]:
        """The bytes of a tensor in the file, of MXFP4 as ggml's blocks; `index` as in `stored`."""
        return np.ascontiguousarray(self.stored(name, index)).reshape(-1).view(np.uint8)

    def kind(self, name: str) -> str:
        """How a tensor is stored: BF16, F16, F32, or ggml's name of a quantized type."""
        return "F32"

    def read(self, name: str, index: int | None = None) -> NDArray[np.float32]:
        """A tensor as float32, or one entry along its first axis.

        Raises:
            ModelFileError: it is missing, has an unsupported dtype, or holds NaN or infinity.
        """
        values = self.stored(name, index)
        if values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        floats: NDArray[np.float32] = values.astype(np.float32, copy=False)
        if not np.isfinite(floats).all():
            raise self.not_finite(name)
        return floats

    @abstractmethod
    def not_finite(self, name: str) -> ModelFileError:
        """The error of a tensor with NaN or infinity."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of config, headers and samples of the weights: cheap, and different for a different checkpoint."""

    @abstractmethod
    def forget(self, name: str, index: int | None = None) -> None:
        """Release the memory of a tensor that has been read, or of one entry along its first axis."""

    def forget_bytes(self, name: str, first: int, last: int) -> None:
        """Release the memory of bytes [first, last) of a tensor, where it is read from a map."""
        return

    @abstractmethod
    def close(self) -> None:
        """Unmap its files."""

    def describe(self) -> Shape:
        """The description of the model.

        Raises:
            UnsupportedModelError: it asks for something that is not implemented.
        """
        return read_shape(self.raw_config, self.config_source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Place:
    file: SafetensorsFile
    info: TensorInfo

    def stored(self, index: int | None) -> NDArray[Any]:
        return self.file.stored(self.info.name, index)

    def forget(self, index: int | None) -> None:
        self.file.forget(self.info, index)


@dataclass(frozen=True)
class _Blocks:
    """A tensor of MXFP4: its blocks, and their scales."""

    blocks: _Place
    scales: _Place
    shape: tuple[int, ...]

    def raw(self, index: int | None) -> NDArray[np.uint8]:
        """As ggml's blocks."""
        return mxfp4.as_ggml(self.blocks.stored(index), self.scales.stored(index))


class FolderCheckpoint(HubCheckpoint):
    """A folder in the hub's layout: config, tokenizer files, and tensors in one file or in shards.

    Raises:
        ModelFileError: the folder, a shard or the index is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise ModelFileError(
                f"{folder} {what}", hint="give the folder of a Hugging Face checkpoint, or a GGUF file"
            )
        if not (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
            raise ModelFileError(f"{folder} is an adapter (adapter_config.json)", hint="merge it into its base model")
        whole = read_json(folder / "config.json")
        part = text_part(whole)
        self.raw_config = dict(part)
        self.text_files = self._read_text_files()
        self._float8_block = float8.block_of(self.raw_config, self.config_source)
        self._files: list[SafetensorsFile] = []
        try:
            self._tensors = self._open()
            if part is not whole:
                self._leave_out(str(whole["model_type"]))
            self._scales = self._take_scales()
            self._blocks = self._take_blocks()
            self._names = self._tensors.keys() | self._blocks.keys()
        except ModelFileError:
            self.close()
            raise

    @property
    def config_source(self) -> str:
        return str(self.path / "config.json")

    @property
    def names(self) -> Set[str]:
        return self._names

    def stored_name(self, name: str) -> str:
        return family_of(self.raw_config, self.config_source).hub_name(name)

    @property
    def rows_in_turn(self) -> bool:
        return family_of(self.raw_config, self.config_source).rows_in_turn

    def drafting_layers(self, count: int) -> tuple[str, ...]:
        more = self.raw_config.get(family_of(self.raw_config, self.config_source).drafting_layers)
        return tuple(f"model.layers.{count + n}." for n in range(more if isinstance(more, int) else 0))

    def kind(self, name: str) -> str:
        return mxfp4.KIND if name in self._blocks else self._place(name).info.dtype

    def tensor_shape(self, name: str) -> tuple[int, ...] | None:
        if name in self._blocks:
            return self._blocks[name].shape
        place = self._tensors.get(name)
        return place.info.shape if place else None

    def stored(self, name: str, index: int | None = None) -> NDArray[Any]:
        if name in self._blocks:
            return mxfp4.values(self._blocks[name].raw(index))
        place = self._place(name)
        values = place.stored(index)
        if name in self._scales and self._float8_block is not None and index is None:
            scales = self._scales[name]
            return float8.scaled(values, scales.file.read(scales.info.name), self._float8_block)
        if place.info.dtype not in WEIGHT_DTYPES:
            raise ModelFileError(
                f"{place.file.path}: tensor {name} has dtype {place.info.dtype}",
                hint="weights must be BF16, F16 or F32; quantize from the original checkpoint",
            )
        return values

    def raw(self, name: str, index: int | None = None) -> NDArray[np.uint8]:
        return self._blocks[name].raw(index) if name in self._blocks else super().raw(name, index)

    def not_finite(self, name: str) -> ModelFileError:
        place = self._blocks[name].blocks if name in self._blocks else self._place(name)
        return ModelFileError(
            f"{place.file.path}: tensor {name} holds NaN or infinity",
            hint="the checkpoint is damaged or its training diverged",
        )

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.raw_config, sort_keys=True).encode())
        for file in self._files:
            digest.update(file.path.name.encode() + file.sample())
        return digest.hexdigest()

    def _place(self, name: str) -> _Place:
        place = self._tensors.get(name)
        if place is None:
            raise ModelFileError(f"{self.path}: tensor {name} is missing", hint="is the checkpoint complete?")
        return place

    def forget(self, name: str, index: int | None = None) -> None:
        held = self._blocks.get(name)
        for place in (held.blocks, held.scales) if held else (self._tensors[name],):
            place.forget(index)

    def forget_bytes(self, name: str, first: int, last: int) -> None:
        if name in self._tensors:
            place = self._tensors[name]
            place.file.forget_range(place.info.start + first, min(place.info.start + last, place.info.end))

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _read_text_files(self) -> dict[str, bytes]:
        """Those of the folder; a vocabulary of tiktoken becomes the `tokenizer.json` that is missing."""
        files = read_text_files(self.path)
        if TOKENIZER_FILES[0] in files or not any(self.path.glob("*.tiktoken")):
            return files
        family = family_of(self.raw_config, self.config_source)
        if family.tiktoken is None or not (self.path / family.tiktoken.name).exists():
            return files
        path, spelling = self.path / family.tiktoken.name, family.gguf
        names = family.tiktoken.specials
        made = tiktoken.tokenizer_json(read_bytes(path), names, spelling.split, spelling.composes, str(path))
        return {TOKENIZER_FILES[0]: made} | files

    def _open(self) -> dict[str, _Place]:
        index = self.path / "model.safetensors.index.json"
        names = self._shards(index) if index.exists() else {"model.safetensors": None}
        places: dict[str, _Place] = {}
        if not index.exists() and not (self.path / "model.safetensors").exists():
            for other in sorted(path.name for path in self.path.iterdir() if path.suffix in _OTHER_WEIGHTS):
                raise ModelFileError(
                    f"{self.path} has no model.safetensors, and {other} is not read in its place",
                    hint="save the weights as safetensors (transformers: model.save_pretrained(FOLDER)); "
                    "a GGUF file is given by its own path",
                )
        for shard, expected in names.items():
            file = self._open_shard(shard)
            self._files.append(file)
            for name in expected or ():
                if name not in file.tensors:
                    raise ModelFileError(
                        f"{file.path}: tensor {name} is missing, though {index.name} puts it there",
                        hint="download the checkpoint again",
                    )
            for name, info in file.tensors.items():
                if name in places:
                    raise ModelFileError(
                        f"{file.path}: tensor {name} stands in two shards",
                        hint="remove the files that do not belong to the checkpoint",
                    )
                places[name] = _Place(file, info)
        return places

    def _leave_out(self, model_type: str) -> None:
        """Keep the language model's tensors, by the names that they have where it is alone."""
        names = {name: _TEXT.sub("model.", name) for name in self._tensors if _TEXT.match(name) or name == _HEAD}
        others = len(self._tensors) - len(names)
        self._tensors = {names[name]: place for name, place in self._tensors.items() if name in names}
        self.left_out = (
            f"{model_type} is read as a language model only: {others} tensors of other parts are left out, "
            "so it takes text and nothing else"
        )

    def _open_shard(self, name: str) -> SafetensorsFile:
        return SafetensorsFile(self.path / name)

    def _take_scales(self) -> dict[str, _Place]:
        """Of each float8 tensor by its name, the tensor of its scales, which is no weight of the model."""
        scales = {}
        for name, place in list(self._tensors.items()):
            scale = self._tensors.get(name + float8.SCALES)
            if place.info.dtype != float8.DTYPE or scale is None or self._float8_block is None:
                continue
            shape = place.info.shape
            fits = len(shape) == 2 and scale.info.shape == float8.scale_shape((shape[0], shape[1]), self._float8_block)
            if not fits or scale.info.dtype not in WEIGHT_DTYPES:
                stored = f"{scale.info.dtype} {list(scale.info.shape)}"
                raise ModelFileError(
                    f"{scale.file.path}: tensor {scale.info.name} is {stored}, which does not fit blocks of "
                    f"{list(self._float8_block)} of {list(shape)}",
                    hint="do config.json and the weights belong together?",
                )
            scales[name] = self._tensors.pop(name + float8.SCALES)
        return scales

    def _take_blocks(self) -> dict[str, _Blocks]:
        """Of each tensor of MXFP4 by its name, what stands for it."""
        taken = {}
        for stored in [name for name in self._tensors if name.endswith(mxfp4.BLOCKS)]:
            name = stored.removesuffix(mxfp4.BLOCKS)
            blocks, scales = self._tensors[stored], self._tensors.get(name + mxfp4.SCALES)
            if blocks.info.dtype != mxfp4.DTYPE or scales is None or name in self._tensors:
                continue
            shape = mxfp4.shape_of(blocks.info.shape, scales.info.shape)
            if shape is None or scales.info.dtype != mxfp4.DTYPE:
                found = f"{scales.info.dtype} {list(scales.info.shape)}"
                raise ModelFileError(
                    f"{scales.file.path}: tensor {scales.info.name} is {found}, which does not fit blocks of "
                    f"{list(blocks.info.shape)}",
                    hint="download the checkpoint again",
                )
            taken[name] = _Blocks(self._tensors.pop(stored), self._tensors.pop(name + mxfp4.SCALES), shape)
        return taken

    def _shards(self, index: Path) -> dict[str, set[str] | None]:
        """Shard file names of the index, with the tensors of each."""
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFileError(f"{index} has no weight_map", hint="download it again")
        shards: dict[str, set[str] | None] = {}
        for name, shard in weight_map.items():
            if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or Path(shard).name != shard:
                raise ModelFileError(
                    f"{index} names the shard {shard!r:.80}, which is not a file beside it",
                    hint="do not use this checkpoint",
                )
            names = shards.setdefault(shard, set())
            assert names is not None
            names.add(name)
        return shards


def read_text_files(folder: Path) -> dict[str, bytes]:
    """Contents of those of `TOKENIZER_FILES` and `LICENCE_FILES` that a folder has.

    Raises:
        ModelFileError: one cannot be read.
    """
    known = (*TOKENIZER_FILES, *LICENCE_FILES)
    return {name: read_bytes(folder / name) for name in known if (folder / name).is_file()}


def licence_title(files: Mapping[str, bytes]) -> str | None:
    """How the licence among a checkpoint's files begins: its first line that is not empty; None: there is none."""
    lines = (line for name in LICENCE_FILES for line in files.get(name, b"").decode(errors="replace").splitlines())
    title = next((line.strip(" #\t") for line in lines if line.strip(" #\t")), None)
    return title and title[:_LICENCE_TITLE]
