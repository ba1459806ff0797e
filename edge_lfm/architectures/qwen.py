"""The families Qwen2 (also Qwen2.5 and DeepSeek's distills), Qwen3 and Qwen3-MoE: configs, and names.

Source: transformers 5.24, configurations and models of qwen2, qwen3 and qwen3_moe; llama.cpp's `conversion/qwen.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_lfm.architectures import decoder, decoder_gguf
from edge_lfm.architectures.family import Family, GgufKeys, GgufSpelling
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Attention, Ffn, Layer, Shape

BIASED, DENSE, SPARSE = "qwen2", "qwen3", "qwen3_moe"
_CLASSES = {BIASED: "Qwen2ForCausalLM", DENSE: "Qwen3ForCausalLM", SPARSE: "Qwen3MoeForCausalLM"}
_HEAD_WIDTH = {DENSE: 128}
"""Where the config does not say; the heads of others share the hidden size."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What `tokenizer.json` splits a text by."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    decoder.check_activation(config, "hidden_act")
    decoder.check_false(config, "use_mrope")
    model_type, count = config.raw["model_type"], config.number("num_hidden_layers")
    if model_type == BIASED:
        attention = decoder.read_attention(config, None, qk_norm="none", bias=True)
    else:
        decoder.check_false(config, "attention_bias")
        attention = decoder.read_attention(config, _HEAD_WIDTH.get(model_type), qk_norm="head")
    read_layers = _sparse_layers if model_type == SPARSE else _dense_layers
    layers = read_layers(config, attention, count)
    return decoder.describe(config, layers, eps_default=1e-6, context_default=32768)


def _dense_layers(config: ConfigReader, attention: Attention, count: int) -> list[Layer]:
    return [Layer(attention, Ffn(config.number("intermediate_size")))] * count


def _sparse_layers(config: ConfigReader, attention: Attention, count: int) -> list[Layer]:
    """A layer has experts unless `mlp_only_layers` names it or `decoder_sparse_step` leaves it out."""
    step, dense = config.number("decoder_sparse_step", default=1), config.raw.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(n) is int and 0 <= n < count for n in dense):
        raise config.refuse(f"mlp_only_layers {dense!r:.80} does not name layers of 0..{count - 1}")
    sparse = Layer(attention, Ffn(config.number("moe_intermediate_size"), decoder.read_router(config)))
    chosen = [n not in dense and (n + 1) % step == 0 for n in range(count)]
    if all(chosen):  # a file need not state a width that no layer has
        return [sparse] * count
    plain = _dense_layers(config, attention, 1)[0]
    return [sparse if has_experts else plain for has_experts in chosen]


def read_gguf(file: GgufKeys) -> dict[str, Any]:
    """A file's `config.json`. llama.cpp's code of the sparse models always divides weights by their sum."""
    model_type = GGUF.model_types[file.architecture]
    config = decoder_gguf.config_of(file, model_type, _CLASSES[model_type])
    return config | ({"norm_topk_prob": True} if model_type == SPARSE else {})


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code has experts in all layers or in none, and one way of weighing them."""
    if 0 < len(shape.routers) < len(shape.layers):
        yield "some layers have experts and some have none"
    if not all(router.normalize for router in shape.routers.values()):
        yield "norm_topk_prob is false"


GGUF = GgufSpelling(
    model_types={"qwen2": BIASED, "qwen3": DENSE, "qwen3moe": SPARSE},
    whole=decoder_gguf.WHOLE,
    layer=decoder_gguf.LAYER,
    experts=decoder_gguf.EXPERTS,
    splitters=("qwen2", "deepseek-r1-qwen"),
    split=(SPLIT,),
    composes=True,
    adds_bos=False,
    read=read_gguf,
    keys=decoder_gguf.keys_of,
    refusals=refusals,
)

FAMILY = Family(model_types=(BIASED, DENSE, SPARSE), read=read, gguf=GGUF, names=decoder.NAMES)
