"""Hunyuan's sparse models in GGUF files: names of tensors, keys of the metadata, what llama.cpp's code cannot do.

Source: llama.cpp's `conversion/hunyuan.py`, `src/models/hunyuan-moe.cpp` and `gguf.MODEL_ARCH.HUNYUAN_MOE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_lfm.architectures import decoder_gguf, qwen
from edge_lfm.architectures.decoder_gguf import check_present
from edge_lfm.architectures.family import GgufKeys, GgufSpelling
from edge_lfm.shape import Shape

MODEL_TYPE, CLASS = "hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM"
FIRST_TYPE = "hunyuan"
"""What the checkpoint was first published with, before transformers had the family."""


def read(file: GgufKeys) -> dict[str, Any]:
    """A `config.json` from a file's metadata; reading that one checks the values.

    Theta is the one that heads turn by: the converter multiplies it, and says nothing of `alpha`.

    Raises:
        UnsupportedModelError: something that is not implemented, or a key that is missing.
    """
    for key in ("expert_feed_forward_length", "expert_shared_feed_forward_length"):
        check_present(file, key)
    config = decoder_gguf.config_of(file, MODEL_TYPE, CLASS)
    top_k = config.pop("num_experts_per_tok", None)
    return config | {
        "intermediate_size": file.get("expert_shared_feed_forward_length"),
        "num_shared_expert": 1,
        "moe_topk": top_k,
    }


def keys(shape: Shape) -> dict[str, Any]:
    """A shape as a file's metadata, in the order of a file."""
    shared = shape.layers[0].ffn.shared
    return decoder_gguf.keys_of(shape) | {
        "expert_shared_feed_forward_length": shared,
        "expert_shared_count": 1,
    }


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code has one FFN for all layers."""
    if len({layer.ffn for layer in shape.layers}) > 1:
        yield "the layers have several kinds of FFN"


GGUF = GgufSpelling(
    model_types={"hunyuan-moe": MODEL_TYPE},
    whole=decoder_gguf.WHOLE,
    layer={
        **decoder_gguf.LAYER,
        "ffn_gate_shexp.weight": "feed_forward.shared.w1.weight",
        "ffn_up_shexp.weight": "feed_forward.shared.w3.weight",
        "ffn_down_shexp.weight": "feed_forward.shared.w2.weight",
    },
    experts=decoder_gguf.EXPERTS,
    splitters=("hunyuan",),
    split=(qwen.SPLIT,),
    composes=True,
    adds_bos=False,
    read=read,
    keys=keys,
    refusals=refusals,
)
