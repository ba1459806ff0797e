"""What a file of `architectures/` gives: how its configs are read, and what its tensors are called in other formats.

Canonical names are those of the packed file: `model.layers.N.self_attn.q_proj.weight` and so on (`model/plan.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Shape

LAYER = "model.layers."
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


@dataclass(frozen=True)
class GgufKeys:
    """What the config of a GGUF file is made from. `get` reads a key of the architecture."""

    metadata: Mapping[str, Any]
    vocab: int
    names: frozenset[str]
    """Of its tensors."""
    where: str
    floats: Callable[[str], NDArray[np.float32] | None]
    """The values of one of its tensors that is float32; None: it has none of that name."""

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture"))

    def get(self, key: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}")


@dataclass(frozen=True)
class GgufSpelling:
    """A family's GGUF files, as llama.cpp writes and reads them."""

    model_types: Mapping[str, str]
    """GGUF's name of an architecture -> the hub's `model_type`."""
    whole: Mapping[str, str]
    """GGUF's name -> the canonical name, of tensors outside of layers; in the order of a file."""
    layer: Mapping[str, str]
    """The same of a layer's tensors, without `blk.N.` and `model.layers.N.`."""
    experts: Mapping[str, str]
    """The same of tensors that hold all experts of a layer; `{e}` stands for the expert."""
    splitters: tuple[str, ...]
    """llama.cpp's names of the tokenizer's splitting expression, its own first."""
    split: tuple[str, ...]
    """As `tokenizer.json` has it: expressions, of which each splits what those before have left."""
    composes: bool
    """Whether the tokenizer composes characters first (NFC), of which GGUF says nothing."""
    adds_bos: bool
    """Whether the tokenizer begins with a start token where a file does not say."""
    read: Callable[[GgufKeys], dict[str, Any]]
    """A file's `config.json`."""
    keys: Callable[[Shape], dict[str, Any]]
    """The metadata of a shape, without the architecture's name in front."""
    refusals: Callable[[Shape], Iterator[str]]
    """What a shape has that llama.cpp's code of the family cannot do."""
    computed: Callable[[Shape], Mapping[str, NDArray[np.float32]]] = lambda _shape: {}
    """Tensors that a file has beside the weights, by GGUF's name."""
    scales_positions: bool = False
    """Whether `read` and `keys` know YaRN."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """As `layer`, of tensors that hold a matrix for each head; canonical are those one over another."""
    whole_words_first: bool = False
    """Whether a word that is a token stays whole, whatever merges say, of which GGUF says nothing."""

    def canonical(self, name: str, experts: int) -> list[str]:
        """The canonical names of what a GGUF tensor holds: one, or one for each expert; an unknown name stays."""
        if name in self.whole:
            return [self.whole[name]]
        prefix, _, rest = name.partition(".")
        number, _, part = rest.partition(".")
        if prefix == "blk" and number.isdecimal():
            at = f"{LAYER}{int(number)}."
            if part in self.layer or part in self.heads:
                return [at + (self.layer.get(part) or self.heads[part])]
            if part in self.experts:
                return [at + self.experts[part].format(e=e) for e in range(experts)]
        return [name]


@dataclass(frozen=True)
class TiktokenFile:
    """A vocabulary of the package tiktoken in a checkpoint; texts are split and composed as GGUF's spelling says."""

    name: str
    specials: tuple[str, ...]
    """Control tokens, whose ids follow the file's."""


@dataclass(frozen=True)
class Family:
    """One family of models."""

    model_types: tuple[str, ...]
    read: Callable[[ConfigReader], Shape]
    gguf: GgufSpelling
    names: Mapping[str, str] = field(default_factory=dict)
    """Canonical name -> the hub's, of those that differ; of a layer's tensors without `model.layers.N.`. `{e}` stands
    for the number of an expert."""
    rows_in_turn: bool = False
    """Whether checkpoints hold all experts of a layer in one tensor, inputs first, with rows of w1 and w3 in turn.
    Where transformers fuses experts of other families, inputs come last, and w1 before w3."""
    drafting_layers: str = ""
    """The config's key for how many layers behind the last a checkpoint has, which draft and are left out."""
    class_name: str | None = None
    """What transformers calls its class, where that is not the type without "_"."""
    tiktoken: TiktokenFile | None = None
    """What stands in the place of `tokenizer.json` in some of its checkpoints."""

    def hub_name(self, name: str) -> str:
        """What the hub's checkpoints call a tensor."""
        if not name.startswith(LAYER):
            return self.names.get(name, name)
        number, _, part = name.removeprefix(LAYER).partition(".")
        expert = _EXPERT.search(part)
        spelt = self.names.get(_EXPERT.sub("{e}", part))
        return name if spelt is None else f"{LAYER}{number}.{spelt.format(e=expert[0] if expert else '')}"
