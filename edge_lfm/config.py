"""ModelConfig: the shape of an LFM2 model, read from any `config.json` of the family.

Accepts the key spellings of transformers 4.x and 5.x and of the hub (facts: LFM2 dense 350M..2.6B,
LFM2-8B-A1B, LFM2-24B-A2B, LFM2.5) and refuses by name what is not implemented. Knows no files but the
one it is given, and no tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_lfm.errors import ModelFileError, UnsupportedModelError

CONV, ATTENTION = "conv", "full_attention"
_ACTIVATIONS = ("silu", "swish")
_LARGEST = {  # far above any model of the family; keeps a hostile file from asking for terabytes
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 20,
    "block_ff_dim": 1 << 20,
    "moe_intermediate_size": 1 << 20,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 10,
    "num_key_value_heads": 1 << 10,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 24,
    "num_experts": 1 << 12,
    "num_experts_per_tok": 1 << 12,
    "num_dense_layers": 1 << 10,
    "conv_L_cache": 64,
}


@dataclass(frozen=True)
class ModelConfig:
    """Field names are Hugging Face's. For dense models num_experts is 0 and every layer is dense."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    layer_types: tuple[str, ...]
    num_attention_heads: int
    num_key_value_heads: int
    num_dense_layers: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    use_expert_bias: bool
    routed_scaling_factor: float
    conv_L_cache: int  # noqa: N815 (Hugging Face's name)
    conv_bias: bool
    norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def is_moe(self, layer: int) -> bool:
        """Whether layer `layer` has experts; otherwise its FFN is dense."""
        return self.num_experts > 0 and layer >= self.num_dense_layers

    def is_attention(self, layer: int) -> bool:
        return self.layer_types[layer] == ATTENTION

    @property
    def max_experts(self) -> int:
        return max(1, self.num_experts)

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """Read `config.json`.

        Raises:
            ModelFileError: the file is missing or is not a JSON object.
            UnsupportedModelError: a value asks for something that is not implemented.
        """
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Interpret the keys of a `config.json`; `where` stands in error messages."""
        return _Reader(raw, where).read()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; NaN and Infinity are refused.

    Raises:
        ModelFileError: the file is missing, unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist", hint="is this folder a model?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read as JSON: {error}", hint="copy the file again") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} holds a JSON {type(value).__name__}, not an object", hint="copy the file again")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Reader:
    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw, self.where = raw, where

    def refuse(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.where}: {what}", hint="edge-lfm runs the LFM2 family: lfm2 and lfm2_moe")

    def number(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """The first of `names` that is present, as an integer within sane bounds."""
        for name in names:
            value = self.raw.get(name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST[names[0]]:
                    raise self.refuse(f"{name} is {value!r}, expected an integer of {least}..{_LARGEST[names[0]]}")
                return value
        if default is None:
            raise self.refuse(f"{names[0]} is missing")
        return default

    def real(self, value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.refuse(f"{name} is {value!r}, expected a positive number")
        return float(value)

    def flag(self, *names: str, default: bool) -> bool:
        for name in names:
            value = self.raw.get(name)
            if value is not None:
                if not isinstance(value, bool):
                    raise self.refuse(f"{name} is {value!r}, expected true or false")
                return value
        return default

    def read(self) -> ModelConfig:
        kind = self.raw.get("model_type")
        if kind not in ("lfm2", "lfm2_moe"):
            raise self.refuse(f"model_type {kind!r} is not implemented")
        for name in ("hidden_act", "hidden_activation"):
            activation = self.raw.get(name)
            if activation is not None and activation not in _ACTIVATIONS:
                raise self.refuse(f"{name} {activation!r} is not implemented, only silu")
        moe = kind == "lfm2_moe"
        layers = self.number("num_hidden_layers")
        experts = self.number("num_experts") if moe else 0
        top_k = self.number("num_experts_per_tok") if moe else 0
        if top_k > experts:
            raise self.refuse(f"num_experts_per_tok {top_k} is more than num_experts {experts}")
        config = ModelConfig(
            model_type=kind,
            vocab_size=self.number("vocab_size"),
            hidden_size=self.number("hidden_size"),
            intermediate_size=self.number("intermediate_size") if moe else self.dense_width(),
            moe_intermediate_size=self.number("moe_intermediate_size") if moe else 0,
            num_hidden_layers=layers,
            layer_types=self.layer_types(layers),
            num_attention_heads=self.number("num_attention_heads"),
            num_key_value_heads=self.number("num_key_value_heads"),
            num_dense_layers=min(self.number("num_dense_layers", default=0, least=0), layers) if moe else layers,
            num_experts=experts,
            num_experts_per_tok=top_k,
            norm_topk_prob=self.flag("norm_topk_prob", default=True),
            use_expert_bias=self.flag("use_expert_bias", default=True) if moe else False,
            routed_scaling_factor=self.real(self.raw.get("routed_scaling_factor", 1.0), "routed_scaling_factor"),
            conv_L_cache=self.number("conv_L_cache", default=3),
            conv_bias=self.flag("conv_bias", default=False),
            norm_eps=self.real(self.raw.get("norm_eps", self.raw.get("block_norm_eps", 1e-5)), "norm_eps"),
            rope_theta=self.rope_theta(),
            max_position_embeddings=self.number("max_position_embeddings", default=128_000),
            tie_word_embeddings=self.flag("tie_word_embeddings", "tie_embedding", default=True),
            bos_token_id=self.raw.get("bos_token_id"),
            eos_token_ids=as_ids(self.raw.get("eos_token_id")),
        )
        self.check_heads(config)
        return config

    def dense_width(self) -> int:
        """The FFN width of a dense model, by the family's adjustment rule (Lfm2MLP of transformers)."""
        # Where both are given, transformers reads the old key.
        given = "block_ff_dim" if self.raw.get("block_ff_dim") is not None else "intermediate_size"
        width = self.number(given)
        if not self.flag("block_auto_adjust_ff_dim", default=True):
            return width
        width = int(2 * width / 3)
        multiplier = self.raw.get("block_ffn_dim_multiplier", 1.0)
        if multiplier is not None:
            width = int(self.real(multiplier, "block_ffn_dim_multiplier") * width)
        multiple = self.raw.get("block_multiple_of", 256)
        if isinstance(multiple, bool) or not isinstance(multiple, int) or not 0 < multiple <= 1 << 16:
            raise self.refuse(f"block_multiple_of is {multiple!r}, expected a positive integer")
        return -(-width // multiple) * multiple

    def layer_types(self, layers: int) -> tuple[str, ...]:
        types = self.raw.get("layer_types")
        if types is None:
            indices = self.raw.get("full_attn_idxs")
            if indices is None:
                return (ATTENTION,) * layers
            if not isinstance(indices, list) or not all(isinstance(i, int) and 0 <= i < layers for i in indices):
                raise self.refuse(f"full_attn_idxs {indices!r} does not name layers of 0..{layers - 1}")
            return tuple(ATTENTION if i in indices else CONV for i in range(layers))
        if not isinstance(types, list) or len(types) != layers:
            raise self.refuse(f"layer_types must be a list of num_hidden_layers = {layers} names")
        for name in types:
            if name not in (CONV, ATTENTION):
                raise self.refuse(f"layer type {name!r} is not implemented, only {CONV} and {ATTENTION}")
        return tuple(types)

    def rope_theta(self) -> float:
        parameters = self.raw.get("rope_parameters") or self.raw.get("rope_scaling") or {}
        if not isinstance(parameters, Mapping):
            raise self.refuse("rope_parameters is not an object")
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            raise self.refuse(f"rope_type {kind!r} is not implemented, only default")
        theta = parameters.get("rope_theta", self.raw.get("rope_theta", self.raw.get("theta", 1e6)))
        return self.real(theta, "rope_theta")

    def check_heads(self, config: ModelConfig) -> None:
        hidden, heads, kv = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        if hidden % heads or heads % kv:
            raise self.refuse(
                f"hidden_size {hidden}, num_attention_heads {heads} and num_key_value_heads {kv} do not divide"
            )
        stated = self.raw.get("head_dim")
        if stated is not None and stated != hidden // heads:
            raise self.refuse(f"head_dim {stated!r} differs from hidden_size / num_attention_heads = {hidden // heads}")
        if (hidden // heads) % 2:
            raise self.refuse(f"head_dim {hidden // heads} is odd, which RoPE cannot turn")


def as_ids(value: Any) -> tuple[int, ...]:
    """Token ids from a number, a list of numbers, or nothing."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))
