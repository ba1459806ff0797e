"""Latent attention in GGUF files, which call it deepseek2: names, keys, what llama.cpp's code cannot do.

Source: llama.cpp's `conversion/deepseek.py` and `glm.py`, `src/models/deepseek2.cpp`, `gguf.MODEL_ARCH.DEEPSEEK2`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from edge_lfm.architectures import decoder_gguf
from edge_lfm.architectures.decoder_gguf import SIGMOID, check_present, check_sigmoid
from edge_lfm.architectures.family import GgufKeys, GgufSpelling
from edge_lfm.architectures.reader import MAX_VALUES
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.shape import LatentAttention, Shape, Yarn

_UNSCORED = ({47, 48}, 154880)
"""Layers, and tokens, of the one model whose first files do not say that its routers score by sigmoids."""
_RANKLESS = (26, 27)
"""Models of as many layers have no rank of queries, says llama.cpp's code."""
_YARN_STEP = np.float32(0.1)
"""llama.cpp keeps mscale_all_dim times this."""
_YARN = Yarn(1.0, 1)
_MAX_DRAFTING = MAX_VALUES["num_nextn_predict_layers"]


def _read(model_type: str, class_name: str, file: GgufKeys) -> dict[str, Any]:
    """A `config.json` from a file's metadata; reading that one checks the values.

    Raises:
        UnsupportedModelError: something that is not implemented, or a key that is missing.
    """
    get = file.get
    _check_scores(file)
    if get("attention.sliding_window"):
        raise _refusal(file, "sliding-window attention is not implemented")
    if get("attention.temperature_scale"):
        raise _refusal(file, f"{file.architecture}.attention.temperature_scale is not implemented")
    for key in ("rope.freq_base", "attention.layer_norm_rms_epsilon", "expert_shared_count"):
        check_present(file, key)
    # Files from before attention was absorbed say the widths of a head where later ones say those of what is kept.
    suffix = "" if get("attention.key_length_mla") is None else "_mla"
    width, value = (_number(file, f"attention.{part}_length{suffix}") for part in ("key", "value"))
    turned, drafting = _number(file, "rope.dimension_count"), _number(file, "nextn_predict_layers", 0)
    layers = _number(file, "block_count") - min(drafting, _MAX_DRAFTING)
    config = decoder_gguf.stated(file, model_type, class_name)
    experts = config.pop("num_experts", None)
    del config["head_dim"]
    return config | {
        "num_hidden_layers": layers,
        "num_nextn_predict_layers": drafting,
        "num_key_value_heads": get("attention.head_count"),
        "first_k_dense_replace": get("leading_dense_block_count") or 0,
        "q_lora_rank": get("attention.q_lora_rank") or None,
        "kv_lora_rank": get("attention.kv_lora_rank"),
        "qk_nope_head_dim": width - turned,
        "qk_rope_head_dim": turned,
        "v_head_dim": value,
        "n_routed_experts": experts,
        "n_shared_experts": get("expert_shared_count"),
        "n_group": get("expert_group_count") or 1,
        "topk_group": get("expert_group_used_count") or 1,
        "norm_topk_prob": bool(get("expert_weights_norm")),
        "routed_scaling_factor": get("expert_weights_scale") or 1.0,
        "rope_parameters": config["rope_parameters"] | _scaling(file),
    }


def _check_scores(file: GgufKeys) -> None:
    check_sigmoid(file)
    layers, vocab = _UNSCORED
    if file.get("expert_gating_func") is None and (file.get("block_count") not in layers or file.vocab != vocab):
        raise _refusal(
            file, f"{file.architecture}.expert_gating_func is missing: routers by softmax are not implemented"
        )


def _number(file: GgufKeys, key: str, default: int | None = None) -> int:
    value = default if file.get(key) is None else file.get(key)
    if type(value) is not int or value < 0:
        raise _refusal(file, f"{file.architecture}.{key} is {value!r:.40}, expected a number")
    return value


def _refusal(file: GgufKeys, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{file.where}: {what}", hint="convert the model again with a current llama.cpp")


def _scaling(file: GgufKeys) -> dict[str, Any]:
    """What a file says of YaRN. Its number for all dimensions is on the softmax, and leaves rotary positions alone."""
    kind = file.get("rope.scaling.type")
    if kind in (None, "none"):
        return {}
    if kind != "yarn":
        raise _refusal(file, f"rope scaling {kind!r:.40} is not implemented")
    for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"):
        if file.get(key) not in (None, 1.0):
            raise _refusal(file, f"{file.architecture}.{key} {file.get(key)!r:.40} is not implemented")
    for key in ("factor", "original_context_length", "yarn_log_multiplier"):
        check_present(file, f"rope.scaling.{key}")
    stored = file.get("rope.scaling.yarn_log_multiplier")
    if not isinstance(stored, float) or not 0 < stored < math.inf:
        raise _refusal(file, f"{file.architecture}.rope.scaling.yarn_log_multiplier is {stored!r:.40}")
    all_dims = float(np.float32(stored) / _YARN_STEP)
    return {
        "rope_type": "yarn",
        "factor": file.get("rope.scaling.factor"),
        "original_max_position_embeddings": file.get("rope.scaling.original_context_length"),
        "beta_fast": file.get("rope.scaling.yarn_beta_fast") or _YARN.fast,
        "beta_slow": file.get("rope.scaling.yarn_beta_slow") or _YARN.slow,
        "mscale": all_dims,
        "mscale_all_dim": all_dims,
    }


def _keys(shape: Shape) -> dict[str, Any]:
    """A shape as a file's metadata, in the order of a file."""
    latent, router = shape.latents[0], next(iter(shape.routers.values()))
    ffn = next(layer.ffn for layer in shape.layers if layer.ffn.router is not None)
    width, kept = latent.plain + latent.rope.width, (latent.rank + latent.rope.width, latent.rank)
    metadata = decoder_gguf.keys_with(shape, latent.heads, latent.kv_heads, kept, latent.rope) | {
        "attention.q_lora_rank": latent.query_rank or 0,
        "attention.kv_lora_rank": latent.rank,
        "attention.key_length_mla": width,
        "attention.value_length_mla": latent.value,
        "leading_dense_block_count": len(shape.layers) - len(shape.routers),
        "expert_shared_count": ffn.shared // ffn.width,
        "expert_gating_func": SIGMOID,
        "expert_weights_norm": router.normalize,
        "expert_weights_scale": router.scale,
        "expert_group_count": router.groups,
        "expert_group_used_count": router.kept_groups,
    }
    if latent.rope.scaling is None:
        return metadata
    return metadata | {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": latent.rope.scaling.factor,
        "rope.scaling.original_context_length": latent.rope.scaling.original,
        "rope.scaling.yarn_beta_fast": latent.rope.scaling.fast,
        "rope.scaling.yarn_beta_slow": latent.rope.scaling.slow,
        "rope.scaling.yarn_log_multiplier": float(_YARN_STEP) * _all_dims(latent, latent.rope.scaling),
    }


def _all_dims(latent: LatentAttention, scaling: Yarn) -> float:
    """mscale_all_dim: by how much the root of the softmax's scale grows with a factor of e to the tenth power."""
    grown = math.sqrt(latent.scale * math.sqrt(latent.plain + latent.rope.width))
    return (grown - 1) / (0.1 * math.log(scaling.factor)) if scaling.factor > 1 else 0.0


def _refusals(shape: Shape) -> Iterator[str]:
    """llama.cpp's code has dense layers in front, one shared FFN, and one number of YaRN's for both of its places."""
    sparse = [layer.ffn for layer in shape.layers if layer.ffn.router is not None]
    if not sparse or any(layer.ffn.router is None for layer in shape.layers[-len(sparse) :]):
        yield "the dense layers are not the first ones"
    if any(not ffn.shared for ffn in sparse):
        yield "n_shared_experts is 0"
    for latent in set(shape.latents.values()):
        if latent.query_rank is not None and len(shape.layers) in _RANKLESS:
            yield f"q_lora_rank beside {len(shape.layers)} layers"
        scaling = latent.rope.scaling
        if scaling is not None and (latent.rope.magnitude != 1 or _all_dims(latent, scaling) < 1e-6):
            yield "mscale is not mscale_all_dim beside rope_type yarn"
        if scaling is not None and not scaling.truncate:
            yield "truncate is false beside rope_type yarn"


def gguf_of(
    model_type: str,
    class_name: str,
    *,
    splitter: str,
    split: tuple[str, ...],
    adds_bos: bool,
    whole_words_first: bool = False,
) -> GgufSpelling:
    """How a family spells GGUF; its class in transformers, and its tokenizer, are its own."""
    return GgufSpelling(
        model_types={"deepseek2": model_type},
        whole=decoder_gguf.WHOLE,
        layer={
            **decoder_gguf.LAYER,
            "attn_q_a.weight": "self_attn.q_a_proj.weight",
            "attn_q_a_norm.weight": "self_attn.q_a_layernorm.weight",
            "attn_q_b.weight": "self_attn.q_b_proj.weight",
            "attn_kv_a_mqa.weight": "self_attn.kv_a_proj.weight",
            "attn_kv_a_norm.weight": "self_attn.kv_a_layernorm.weight",
            "attn_kv_b.weight": "self_attn.kv_b_proj.weight",
            "exp_probs_b.bias": "feed_forward.expert_bias",
            "ffn_gate_shexp.weight": "feed_forward.shared.w1.weight",
            "ffn_up_shexp.weight": "feed_forward.shared.w3.weight",
            "ffn_down_shexp.weight": "feed_forward.shared.w2.weight",
        },
        heads={"attn_k_b.weight": "self_attn.k_b_proj.weight", "attn_v_b.weight": "self_attn.v_b_proj.weight"},
        experts=decoder_gguf.EXPERTS,
        splitters=(splitter,),
        split=split,
        composes=False,
        adds_bos=adds_bos,
        whole_words_first=whole_words_first,
        read=partial(_read, model_type, class_name),
        keys=_keys,
        refusals=_refusals,
        scales_positions=True,
    )
