"""The families of models, one file each: what their config means, what their tensors are called elsewhere.

The family is chosen here, by `model_type` or by GGUF's name of the architecture; the rest of the program reads the
shape and the names that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_lfm.architectures import (
    afmoe,
    deepseek_v3,
    glm4_moe_lite,
    gpt_oss,
    hunyuan,
    lfm2,
    lfm3,
    minimax,
    olmoe,
    qwen,
)
from edge_lfm.architectures.family import Family, GgufKeys, GgufSpelling
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Shape

__all__ = ["Family", "GgufKeys", "GgufSpelling", "family_of", "gguf_spelling", "read_shape", "text_part"]

_FAMILIES = {
    model_type: family
    for family in (
        lfm2.FAMILY,
        lfm3.FAMILY,
        qwen.FAMILY,
        olmoe.FAMILY,
        afmoe.FAMILY,
        minimax.FAMILY,
        gpt_oss.FAMILY,
        glm4_moe_lite.FAMILY,
        deepseek_v3.FAMILY,
        hunyuan.FAMILY,
    )
    for model_type in family.model_types
}
_GGUF = {
    name: tuple(family.gguf for family in _FAMILIES.values() if name in family.gguf.model_types)
    for known in _FAMILIES.values()
    for name in known.gguf.model_types
}
"""GGUF's name of an architecture -> how the families spell it that have it; their tokenizers tell them apart."""

_OUTSIDE = ("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config")
"""What may stand beside `text_config` and not in it."""
_HAS_HEAD = "ForCausalLM"
"""How transformers' classes of models that predict the next token end; before it stands the type, without "_"."""


def text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the language model: `raw`, or of a model that sees or hears as well that part of it.

    Such a model is a family's if its type is that of the language model and more: lfm3_vl.
    """
    part, whole = raw.get("text_config"), str(raw.get("model_type"))
    model_type = part.get("model_type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(model_type, str) or model_type not in _FAMILIES:
        return raw
    if not whole.startswith(f"{model_type}_") or whole in _FAMILIES:
        return raw
    outside = {name: raw[name] for name in _OUTSIDE if raw.get(name) is not None}
    stated = {name: value for name, value in part.items() if value is not None}
    return outside | stated | {"architectures": []}


def family_of(raw: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family of the model of a `config.json`; `where` stands in error messages.

    Raises:
        UnsupportedModelError: none is implemented that has its `model_type`.
    """
    model_type = text_part(raw).get("model_type")
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        raise UnsupportedModelError(f"{where}: model_type {model_type!r} is not implemented", hint=_hint())
    return _FAMILIES[model_type]


def read_shape(raw: Mapping[str, Any], where: str = "config.json") -> Shape:
    """The description of the model of a `config.json`; `where` stands in error messages.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    raw = text_part(raw)
    config, family = ConfigReader(raw, where, _hint()), family_of(raw, where)
    classes = raw.get("architectures") or []
    its_class = family.class_name or f"{raw['model_type'].replace('_', '')}{_HAS_HEAD}"
    if not isinstance(classes, list) or not all(str(name).lower() == its_class.lower() for name in classes):
        what = f"model_type {raw['model_type']}, only language models of that type (…{_HAS_HEAD})"
        raise config.refuse(f"architectures {classes!r:.80} is not implemented for {what}")
    return family.read(config)


def gguf_spelling(metadata: Mapping[str, Any], where: str) -> GgufSpelling:
    """How the GGUF file with this metadata spells names and keys; `where` stands in error messages.

    Raises:
        UnsupportedModelError: its architecture is not implemented.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _GGUF:
        raise UnsupportedModelError(
            f"{where}: architecture {architecture!r:.40} is not implemented", hint=f"edge-lfm runs {', '.join(_GGUF)}"
        )
    known, splitter = _GGUF[architecture], metadata.get("tokenizer.ggml.pre")
    return next((spelling for spelling in known if splitter in spelling.splitters), known[-1])


def _hint() -> str:
    return f"edge-lfm runs models of the types {', '.join(_FAMILIES)}"
