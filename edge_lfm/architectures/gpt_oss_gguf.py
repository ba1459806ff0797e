"""gpt-oss in GGUF files: names of tensors, keys of the metadata, what llama.cpp's code of the family cannot do.

Source: llama.cpp's `conversion/gpt_oss.py`, `src/models/openai-moe.cpp` and `gguf.MODEL_ARCH.GPT_OSS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from edge_lfm.architectures import decoder, decoder_gguf
from edge_lfm.architectures.decoder_gguf import check_present
from edge_lfm.architectures.family import GgufKeys, GgufSpelling
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Gated, Shape, Yarn

MODEL_TYPE = "gpt_oss"
FULL, SLIDING = decoder.FULL_ATTENTION, "sliding_attention"
GATED = Gated(alpha=1.702, limit=7.0, plus=1.0)
"""What GptOssConfig says, and llama.cpp's code (`SWIGLU_OAI_MOE`) has built in."""
_EVERY = 2
"""llama.cpp's code attends to all positions in every second layer, whatever a file says."""
_YARN = Yarn(1.0, 1)


def read(file: GgufKeys) -> dict[str, Any]:
    """A `config.json` from a file's metadata; reading that one checks the values.

    Raises:
        UnsupportedModelError: something that is not implemented, or a key that is missing.
    """
    get = file.get
    for key in ("rope.freq_base", "attention.sliding_window", "expert_feed_forward_length"):
        check_present(file, key)
    _check(file, "attention.sliding_window_pattern", (None, _EVERY))
    _check(file, "rope.freq_base_swa", (None, get("rope.freq_base")))
    config = decoder_gguf.read_keys(file, MODEL_TYPE, "GptOssForCausalLM")
    width = config.pop("moe_intermediate_size")  # the family has one width, and calls it so
    return config | {
        "intermediate_size": width,
        "num_local_experts": get("expert_count"),
        "sliding_window": get("attention.sliding_window"),
        "rope_parameters": config["rope_parameters"] | _scaling(file),
        "attention_bias": True,
    }


def _check(file: GgufKeys, key: str, known: tuple[Any, ...]) -> None:
    if file.get(key) not in known:
        what = f"{file.architecture}.{key} {file.get(key)!r:.40} is not implemented"
        raise UnsupportedModelError(f"{file.where}: {what}", hint="use another file")


def _scaling(file: GgufKeys) -> dict[str, Any]:
    """What a file says of YaRN; GGUF cannot say that its ramp ends between pairs, as published models have it."""
    if file.get("rope.scaling.type") in (None, "none"):
        return {}
    _check(file, "rope.scaling.type", ("yarn",))
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"):
        _check(file, key, (None, 1.0))
    _check(file, "rope.scaling.yarn_log_multiplier", (None,))
    for key in ("rope.scaling.factor", "rope.scaling.original_context_length"):
        check_present(file, key)
    return {
        "rope_type": "yarn",
        "factor": file.get("rope.scaling.factor"),
        "original_max_position_embeddings": file.get("rope.scaling.original_context_length"),
        "beta_fast": file.get("rope.scaling.yarn_beta_fast") or _YARN.fast,
        "beta_slow": file.get("rope.scaling.yarn_beta_slow") or _YARN.slow,
        "truncate": False,
    }


def keys(shape: Shape) -> dict[str, Any]:
    """A shape as a file's metadata, in the order of a file."""
    windowed = next(attention for attention in shape.attentions.values() if attention.window is not None)
    assert windowed.rope is not None
    scaling, metadata = windowed.rope.scaling, decoder_gguf.keys_of(shape)
    metadata["attention.sliding_window"] = windowed.window
    if scaling is not None:
        metadata |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": scaling.factor,
            "rope.scaling.original_context_length": scaling.original,
            "rope.scaling.yarn_beta_fast": scaling.fast,
            "rope.scaling.yarn_beta_slow": scaling.slow,
        }
    return metadata


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code has one gate, one order of layers, and one magnitude for a scaling's factor."""
    if shape.tied:
        yield "tie_word_embeddings is true"
    if any(layer.ffn.gated != GATED for layer in shape.layers):
        yield f"swiglu_alpha and swiglu_limit are not {GATED.alpha} and {GATED.limit}"
    windowed = [attention.window is not None for attention in shape.attentions.values()]
    if windowed != [n % _EVERY == 0 for n in range(len(windowed))]:
        yield f"layer_types is not {SLIDING} and {FULL} in turn"
    for rope in {attention.rope for attention in shape.attentions.values() if attention.rope is not None}:
        expected = 1.0 if rope.scaling is None else 0.1 * math.log(max(1.0, rope.scaling.factor)) + 1.0
        if not math.isclose(rope.magnitude, expected):
            yield f"attention_factor is {rope.magnitude:g}, not {expected:g}"
        if rope.scaling is not None and rope.scaling.truncate:
            yield "truncate is true beside rope_type yarn"


_LAYER = {name: canonical for name, canonical in decoder_gguf.LAYER.items() if name != "ffn_norm.weight"}
GGUF = GgufSpelling(
    model_types={"gpt-oss": MODEL_TYPE},
    whole=decoder_gguf.WHOLE,
    layer={
        **_LAYER,
        "attn_output.bias": "self_attn.out_proj.bias",
        "attn_sinks.weight": "self_attn.sinks",
        "post_attention_norm.weight": "ffn_norm.weight",
        "ffn_gate_inp.bias": "feed_forward.gate.bias",
    },
    experts={
        **decoder_gguf.EXPERTS,
        "ffn_gate_exps.bias": "feed_forward.experts.{e}.w1.bias",
        "ffn_up_exps.bias": "feed_forward.experts.{e}.w3.bias",
        "ffn_down_exps.bias": "feed_forward.experts.{e}.w2.bias",
    },
    splitters=("gpt-4o",),
    split=(decoder_gguf.O200K,),
    composes=False,
    adds_bos=False,
    read=read,
    keys=keys,
    refusals=refusals,
    scales_positions=True,
)
