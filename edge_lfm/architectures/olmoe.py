"""The family OLMoE: all queries of a token are normed as one row, and so are its keys; every layer has experts.

Source: transformers 5.24, `configuration_olmoe.py`, `modeling_olmoe.py`; llama.cpp's `conversion/olmo.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_lfm.architectures import decoder, decoder_gguf
from edge_lfm.architectures.family import Family, GgufKeys, GgufSpelling
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Ffn, Layer, Shape

MODEL_TYPE = "olmoe"
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `tokenizer.json` splits a text by: the expression that byte-level tokenizers have built in."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_activation(config, "hidden_act")
    decoder.check_false(config, "attention_bias")
    if config.raw.get("clip_qkv") is not None:
        raise config.refuse(f"clip_qkv {config.raw['clip_qkv']!r} is not implemented")
    attention = decoder.read_attention(config, None, qk_norm="all")
    sparse = Layer(attention, Ffn(config.number("intermediate_size"), decoder.read_router(config)))
    layers = [sparse] * config.number("num_hidden_layers")
    return decoder.describe(config, layers, eps_default=1e-5, context_default=4096)


def read_gguf(file: GgufKeys) -> dict[str, Any]:
    """A file's `config.json`. llama.cpp's code never divides weights by their sum."""
    if file.get("attention.clamp_kqv"):
        raise UnsupportedModelError(
            f"{file.where}: {file.architecture}.attention.clamp_kqv is not implemented", hint="use another file"
        )
    return decoder_gguf.config_of(file, MODEL_TYPE, "OlmoeForCausalLM") | {"norm_topk_prob": False}


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code has one way of weighing experts."""
    if any(router.normalize for router in shape.routers.values()):
        yield "norm_topk_prob is true"


GGUF = GgufSpelling(
    model_types={"olmoe": MODEL_TYPE},
    whole=decoder_gguf.WHOLE,
    layer=decoder_gguf.LAYER,
    experts=decoder_gguf.EXPERTS,
    splitters=("olmo",),
    split=(SPLIT,),
    composes=True,
    adds_bos=False,
    read=read_gguf,
    keys=decoder_gguf.keys_of,
    refusals=refusals,
)

FAMILY = Family(model_types=(MODEL_TYPE,), read=read, gguf=GGUF, names=decoder.NAMES)
