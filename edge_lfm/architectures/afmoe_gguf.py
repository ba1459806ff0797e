"""AFMoE in GGUF files: names of tensors, keys of the metadata, what llama.cpp's code of the family cannot do.

Source: llama.cpp's `conversion/afmoe.py`, `src/models/afmoe.cpp` and `gguf.MODEL_ARCH.AFMOE`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from edge_lfm.architectures import decoder, decoder_gguf
from edge_lfm.architectures.decoder_gguf import SIGMOID, check_present, check_scaling, check_sigmoid
from edge_lfm.architectures.family import GgufKeys, GgufSpelling
from edge_lfm.architectures.reader import MAX_VALUES
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Shape

MODEL_TYPE = "afmoe"
FULL, SLIDING = decoder.FULL_ATTENTION, "sliding_attention"
ROUTER_GUARD = 1e-20
"""Of AfmoeTokenChoiceRouter in transformers 5.24."""
_EVERY = 4
"""llama.cpp's code attends to all positions in every fourth layer, whatever a file says."""
_DIGITS = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
"""Threes, counted from the end of a number."""
_OTHER_SCRIPTS = (
    r"[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    r"\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT = (_DIGITS, _OTHER_SCRIPTS, WORDS)
"""What `tokenizer.json` splits a text by: numbers first, then scripts that have no spaces, then words."""


def read(file: GgufKeys) -> dict[str, Any]:
    """A `config.json` from a file's metadata; reading that one checks the values.

    Raises:
        UnsupportedModelError: something that is not implemented, or a key that is missing.
    """
    get = file.get
    check_scaling(file)
    check_sigmoid(file)
    for key in ("rope.freq_base", "attention.sliding_window", "expert_shared_count"):
        check_present(file, key)
    if get("rope.freq_base_swa") not in (None, get("rope.freq_base")):
        what = f"{file.architecture}.rope.freq_base_swa {get('rope.freq_base_swa')!r:.40} is not implemented"
        raise UnsupportedModelError(f"{file.where}: {what}", hint="use another file")
    config = decoder_gguf.read_keys(file, MODEL_TYPE, "AfmoeForCausalLM") | {
        "layer_types": _layer_types(file),
        "sliding_window": get("attention.sliding_window"),
        "num_dense_layers": get("leading_dense_block_count") or 0,
        "num_shared_experts": get("expert_shared_count"),
        "route_norm": get("expert_weights_norm"),
        "route_scale": get("expert_weights_scale"),
        "mup_enabled": True,
    }
    return {key: value for key, value in config.items() if value is not None}


def _layer_types(file: GgufKeys) -> Any:
    """By the file's pattern, true where a window is: of every layer, or the period of those without."""
    count, pattern = file.get("block_count"), file.get("attention.sliding_window_pattern")
    if not isinstance(count, int) or not 0 < count <= MAX_VALUES["num_hidden_layers"]:
        return None  # refused by the config's reader
    pattern = _EVERY if pattern is None else pattern
    if isinstance(pattern, int) and pattern > 0:
        pattern = [(n + 1) % pattern != 0 for n in range(count)]
    if not isinstance(pattern, list) or len(pattern) != count:
        what = f"{file.architecture}.attention.sliding_window_pattern {pattern!r:.40} must name every layer"
        raise UnsupportedModelError(f"{file.where}: {what}", hint="convert the model again with a current llama.cpp")
    return [SLIDING if windowed else FULL for windowed in pattern]


def keys(shape: Shape) -> dict[str, Any]:
    """A shape as a file's metadata, in the order of a file."""
    windowed = next(a for a in shape.attentions.values() if a.window is not None)
    ffn = next(layer.ffn for layer in shape.layers if layer.ffn.router is not None)
    assert windowed.rope is not None and ffn.router is not None
    return decoder_gguf.keys_of(shape) | {
        "rope.freq_base": windowed.rope.theta,
        "rope.dimension_count": windowed.rope.width,
        "attention.sliding_window": windowed.window,
        "leading_dense_block_count": len(shape.layers) - len(shape.routers),
        "expert_shared_count": ffn.shared // ffn.width,
        "expert_gating_func": SIGMOID,
        "expert_weights_norm": True,
        "expert_weights_scale": ffn.router.scale,
    }


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code always scales embeddings, and has one order of layers."""
    if shape.embed_scale != math.sqrt(shape.hidden):
        yield "mup_enabled is false"
    if shape.tied:
        yield "tie_word_embeddings is true"
    if not shape.routers:
        yield "no layer has experts"
    windowed = [shape.attentions[n].window is not None for n in range(len(shape.layers))]
    if windowed != [(n + 1) % _EVERY != 0 for n in range(len(windowed))]:
        yield f"layer_types is not {FULL} in every fourth layer and {SLIDING} in all others"


GGUF = GgufSpelling(
    model_types={"afmoe": MODEL_TYPE},
    whole=decoder_gguf.WHOLE,
    layer={
        **decoder_gguf.LAYER,
        "attn_gate.weight": "self_attn.gate_proj.weight",
        "post_attention_norm.weight": "post_operator_norm.weight",
        "post_ffw_norm.weight": "post_ffn_norm.weight",
        "exp_probs_b.bias": "feed_forward.expert_bias",
        "ffn_gate_shexp.weight": "feed_forward.shared.w1.weight",
        "ffn_up_shexp.weight": "feed_forward.shared.w3.weight",
        "ffn_down_shexp.weight": "feed_forward.shared.w2.weight",
    },
    experts=decoder_gguf.EXPERTS,
    splitters=("afmoe",),
    split=SPLIT,
    composes=False,
    adds_bos=False,
    read=read,
    keys=keys,
    refusals=refusals,
)
