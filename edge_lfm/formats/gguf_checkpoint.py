"""A GGUF file as a checkpoint: canonical names, the hub's config and tokenizer files over its tensors.

Fused experts are taken apart, the taps of a conv get their middle axis back, matrices of heads lie one over another.
Knows no quantizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.architectures import GgufKeys, gguf_spelling
from edge_lfm.errors import ModelFileError, UnsupportedModelError
from edge_lfm.formats.checkpoint import HubCheckpoint
from edge_lfm.formats.gguf import GgufFile, GgufTensor
from edge_lfm.formats.gguf_tokenizer import hub_files

MAX_EXPERTS = 1 << 12
MAX_DRAFTING = 1 << 6


@dataclass(frozen=True)
class _Place:
    tensor: GgufTensor
    shape: tuple[int, ...]


class GgufCheckpoint(HubCheckpoint):
    """An open GGUF file; a context manager.

    Raises:
        ModelFileError: the file is damaged.
        UnsupportedModelError: it holds another architecture, or another tokenizer.
        MissingExtraError: the package gguf is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GgufFile(path)
        try:
            if self._file.metadata.get("split.count", 1) != 1:
                raise UnsupportedModelError(
                    f"{path} is one part of several", hint="join them first: llama-gguf-split --merge FIRST OUT"
                )
            self._spelling = gguf_spelling(self._file.metadata, str(path))
            self._places = self._find_places()
            embedding = self._places.get("model.embed_tokens.weight")
            vocab = embedding.shape[0] if embedding else 0
            keys = GgufKeys(self._file.metadata, vocab, frozenset(self._file.tensors), str(path), self._floats)
            self.raw_config = self._spelling.read(keys)
            self.text_files = hub_files(self._file.metadata, self._spelling, str(path))
        except BaseException:
            self.close()
            raise

    @property
    def config_source(self) -> str:
        return str(self.path)

    @property
    def names(self) -> Set[str]:
        return self._places.keys()

    def tensor_shape(self, name: str) -> tuple[int, ...] | None:
        place = self._places.get(name)
        return place.shape if place else None

    def stored(self, name: str, index: int | None = None) -> NDArray[Any]:
        place = self._place(name)
        values = self._file.stored(place.tensor).reshape(place.shape)
        return values if index is None else values[index]

    def raw(self, name: str, index: int | None = None) -> NDArray[np.uint8]:
        return self._file.raw(self._place(name).tensor)

    def kind(self, name: str) -> str:
        return self._place(name).tensor.kind

    def drafting_layers(self, count: int) -> tuple[str, ...]:
        more = self._file.metadata.get(f"{self._file.metadata['general.architecture']}.nextn_predict_layers")
        numbers = range(count, count + min(more, MAX_DRAFTING)) if isinstance(more, int) else ()
        return tuple(f"{prefix}{n}." for n in numbers for prefix in ("model.layers.", "blk."))

    def not_finite(self, name: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: tensor {self._place(name).tensor.name} holds NaN or infinity", hint="the file is damaged"
        )

    def fingerprint(self) -> str:
        return hashlib.sha256(self._file.sample()).hexdigest()

    def forget(self, name: str, index: int | None = None) -> None:
        tensor = self._places[name].tensor
        self._file.forget_range(tensor.start, tensor.start + tensor.nbytes)

    def close(self) -> None:
        self._file.close()

    def _place(self, name: str) -> _Place:
        place = self._places.get(name)
        if place is None:
            raise ModelFileError(f"{self.path}: tensor {name} is missing", hint="is the file complete?")
        return place

    def _floats(self, name: str) -> NDArray[np.float32] | None:
        tensor = self._file.tensors.get(name)
        return None if tensor is None or tensor.kind != "F32" else self._file.stored(tensor).reshape(-1)

    def _find_places(self) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        for tensor in self._file.tensors.values():
            of_experts = tensor.name.split(".", 2)[-1] in self._spelling.experts and len(tensor.shape) > 1
            if of_experts and tensor.shape[0] > MAX_EXPERTS:
                raise self._file.broken(f"tensor {tensor.name!r} has {tensor.shape[0]} experts")
            names = self._spelling.canonical(tensor.name, tensor.shape[0])
            for n, name in enumerate(names):
                part = tensor.part(n) if of_experts else tensor
                middle = name.endswith("conv.conv.weight") and len(part.shape) == 2
                shape = (part.shape[0], 1, part.shape[1]) if middle else part.shape
                if tensor.name.split(".", 2)[-1] in self._spelling.heads and len(shape) == 3:
                    shape = (shape[0] * shape[1], shape[2])
                if name in places:
                    raise self._file.broken(f"tensor {tensor.name!r} is another spelling of one before it")
                places[name] = _Place(part, shape)
        return places
