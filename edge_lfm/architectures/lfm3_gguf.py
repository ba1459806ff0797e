"""LFM3 in GGUF files: names of tensors, keys of the metadata, what llama.cpp's code of the family cannot do.

Source: files that llama.cpp b12211 loads. Which pairs of a head turn stands in a tensor, `rope_freqs.weight`, that
divides the angles of full attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.architectures import decoder_gguf, lfm2_gguf
from edge_lfm.architectures.family import GgufKeys, GgufSpelling
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import Attention, Shape

CONV, FULL, SLIDING = "conv", "full_attention", "sliding_attention"
MODEL_TYPE = "lfm3"
_FREQUENCIES = "rope_freqs.weight"
_STAYS = 1e30
"""What the angle of a pair that does not turn is divided by."""
_LEAST_STAYS = 1e20


def read(file: GgufKeys) -> dict[str, Any]:
    """A `config.json` from a file's metadata; reading that one checks the values.

    Raises:
        UnsupportedModelError: something that is not implemented, or a key that is missing.
    """
    get = file.get
    _check_generates(file)
    decoder_gguf.check_scaling(file)
    for key in ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.freq_base_swa", "shortconv.l_cache"):
        decoder_gguf.check_present(file, key)
    per_layer, pattern = get("attention.head_count_kv"), get("attention.sliding_window_pattern")
    numbers = isinstance(per_layer, list) and all(isinstance(heads, int) for heads in per_layer)
    if not numbers or not isinstance(pattern, list) or len(per_layer) != len(pattern):
        raise _refuse(file, "attention.head_count_kv and attention.sliding_window_pattern must name every layer")
    width = get("attention.key_length")
    for key in ("attention.value_length", "rope.dimension_count"):
        if get(key) not in (None, width):
            raise _refuse(file, f"{key} {get(key)!r:.40} is not implemented, only a head's {width!r:.40}")
    full = {"rope_theta": get("rope.freq_base"), "rope_type": "proportional", "partial_rotary_factor": _turned(file)}
    return {
        "architectures": ["Lfm3ForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": file.vocab,
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "layer_types": [
            CONV if not heads else SLIDING if slides else FULL for heads, slides in zip(per_layer, pattern, strict=True)
        ],
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": max(per_layer, default=0),
        "head_dim": width,
        "conv_L_cache": get("shortconv.l_cache"),
        "norm_eps": get("attention.layer_norm_rms_epsilon"),
        "sliding_window": get("attention.sliding_window"),
        "use_sandwich_norm": any(name.endswith(".post_attention_norm.weight") for name in file.names),
        "rope_parameters": {FULL: full, SLIDING: {"rope_theta": get("rope.freq_base_swa"), "rope_type": "default"}},
        "max_position_embeddings": get("context_length"),
        "tie_word_embeddings": "output.weight" not in file.names,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
    }


def _check_generates(file: GgufKeys) -> None:
    """Refuse a decision model: it answers with scores of options and reads its prompt in both directions."""
    for key in file.metadata:
        if key.startswith(f"{file.architecture}.decision."):
            raise _refuse(file, f"{key} is set: a decision model, which generates no text, is not implemented")
    if file.get("attention.causal") is False:
        raise _refuse(file, "attention.causal false is not implemented: attention reads the prompt in one direction")


def _turned(file: GgufKeys) -> float:
    """The part of the pairs that turn in full attention."""
    divisors, width = file.floats(_FREQUENCIES), file.get("attention.key_length")
    if divisors is None:
        raise _refuse(file, f"{_FREQUENCIES} is missing, or not float32")
    if not isinstance(width, int) or len(divisors) != width // 2:
        raise _refuse(file, f"{_FREQUENCIES} has {len(divisors)} numbers for heads of {width!r:.40} values")
    turned = int(np.count_nonzero(divisors == 1))
    if not turned or not (divisors[:turned] == 1).all() or not (divisors[turned:] >= _LEAST_STAYS).all():
        raise _refuse(file, f"{_FREQUENCIES} scales positions, which is not implemented")
    return turned / len(divisors)


def _refuse(file: GgufKeys, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{file.where}: {what}", hint="use another file")


def keys(shape: Shape) -> dict[str, Any]:
    """A shape as a file's metadata, in the order of a file."""
    layers, attentions = range(len(shape.layers)), shape.attentions
    full, sliding = _attention(shape, windowed=False), _attention(shape, windowed=True)
    assert full.rope is not None and sliding.rope is not None
    return {
        "block_count": len(shape.layers),
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.layers[0].ffn.width,
        "attention.head_count": full.heads,
        "attention.head_count_kv": [attentions[n].kv_heads if n in attentions else 0 for n in layers],
        "attention.key_length": full.width,
        "attention.value_length": full.width,
        "attention.layer_norm_rms_epsilon": shape.eps,
        "attention.sliding_window": sliding.window,
        "attention.sliding_window_pattern": [n in attentions and attentions[n].window is not None for n in layers],
        "rope.dimension_count": full.rope.width,
        "rope.freq_base": full.rope.theta,
        "rope.freq_base_swa": sliding.rope.theta,
        "shortconv.l_cache": max(conv.taps for conv in shape.convs.values()),
        "vocab_size": shape.vocab,
    }


def _attention(shape: Shape, windowed: bool) -> Attention:
    return next(a for a in shape.attentions.values() if (a.window is not None) == windowed)


def computed(shape: Shape) -> dict[str, NDArray[np.float32]]:
    """What the angles of full attention are divided by, [pairs]: pairs that do not turn get next to no angle."""
    rope = _attention(shape, windowed=False).rope
    assert rope is not None
    divisors = np.ones(rope.width // 2, np.float32)
    divisors[len(divisors) if rope.turned is None else rope.turned :] = _STAYS
    return {_FREQUENCIES: divisors}


def refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code wants all three kinds of layers, and gates."""
    if any(conv.bias for conv in shape.convs.values()):
        yield "conv_bias is set"
    if any(attention.gate == "none" for attention in shape.attentions.values()):
        yield "use_attention_gate is false"
    kinds = {
        None if n not in shape.attentions else shape.attentions[n].window is None for n in range(len(shape.layers))
    }
    if len(kinds) < 3:
        yield f"layer_types has not all of {CONV}, {FULL} and {SLIDING}"


GGUF = GgufSpelling(
    model_types={"lfm3": MODEL_TYPE},
    whole=decoder_gguf.WHOLE | {_FREQUENCIES: "model.rotary_emb.inv_freq"},
    layer={name: part for name, part in lfm2_gguf.GGUF.layer.items() if "gate_inp" not in name and "exp_" not in name}
    | {
        "attn_gate.weight": "self_attn.gate_proj.weight",
        "post_attention_norm.weight": "post_operator_norm.weight",
        "post_ffw_norm.weight": "post_ffn_norm.weight",
    },
    experts={},
    splitters=("lfm2", "llama-bpe", "llama3", "llama-v3"),
    split=(lfm2_gguf.SPLIT,),
    composes=False,
    adds_bos=False,
    read=read,
    keys=keys,
    refusals=refusals,
    computed=computed,
)
