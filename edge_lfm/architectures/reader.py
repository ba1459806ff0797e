"""Reading values from a `config.json`: every one is checked, and refused by name where it cannot be meant.

Knows types and bounds; knows no family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edge_lfm.errors import UnsupportedModelError

MAX_VALUES = {  # far above any published model; keeps a hostile file from asking for terabytes
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 20,
    "moe_intermediate_size": 1 << 20,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 10,
    "num_key_value_heads": 1 << 10,
    "sliding_window": 1 << 24,
    "head_dim": 1 << 10,  # NO_SCORE_BITS of attention.py holds for so many
    "decoder_sparse_step": 1 << 10,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 24,
    "num_experts": 1 << 12,
    "num_experts_per_tok": 1 << 12,
    "num_dense_layers": 1 << 10,
    "num_shared_experts": 1 << 8,
    "n_routed_experts": 1 << 12,
    "n_shared_experts": 1 << 8,
    "n_group": 1 << 6,  # kernels keep the groups of a token in the bits of one number
    "topk_group": 1 << 6,
    "first_k_dense_replace": 1 << 10,
    "q_lora_rank": 1 << 14,
    "kv_lora_rank": 1 << 10,  # as head_dim
    "qk_nope_head_dim": 1 << 10,
    "qk_rope_head_dim": 1 << 10,
    "v_head_dim": 1 << 10,
    "num_nextn_predict_layers": 1 << 6,
    "num_shared_expert": 1 << 8,
    "moe_topk": 1 << 12,
    "attention_head_dim": 1 << 10,
    "global_attn_every_n_layers": 1 << 10,
}


class ConfigReader:
    """The keys of one config. `where` stands in messages, `hint` says what is implemented.

    Methods that take several names read the first that is present, in falling order of precedence.

    Raises (every method):
        UnsupportedModelError: the value is missing, or not what was asked for.
    """

    def __init__(self, raw: Mapping[str, Any], where: str, hint: str) -> None:
        self.raw, self.where, self.hint = raw, where, hint

    def refuse(self, what: str) -> UnsupportedModelError:
        """The error of a config that asks for `what`."""
        return UnsupportedModelError(f"{self.where}: {what}", hint=self.hint)

    def get(self, *names: str) -> tuple[str, Any]:
        """The first name whose value is not null, and that value; the first name and None if there is none."""
        return next(((name, self.raw[name]) for name in names if self.raw.get(name) is not None), (names[0], None))

    def number(self, *names: str, default: int | None = None, least: int = 1, greatest: int | None = None) -> int:
        """An integer of `least` to `greatest` (default: `MAX_VALUES` of the first name)."""
        name, value = self.get(*names)
        greatest = greatest or MAX_VALUES[names[0]]
        if value is None:
            if default is None:
                raise self.refuse(f"{name} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= greatest:
            raise self.refuse(f"{name} is {value!r}, expected an integer of {least}..{greatest}")
        return value

    def real(self, *names: str, default: float) -> float:
        """A positive finite number; null is none."""
        name = next((name for name in names if name in self.raw), None)
        return default if name is None else self.positive(name, self.raw[name])

    def positive(self, name: str, value: Any) -> float:
        """`value`, which must be a positive finite number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.refuse(f"{name} is {value!r}, expected a positive number")
        return float(value)

    def flag(self, *names: str, default: bool) -> bool:
        """true or false."""
        name, value = self.get(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(f"{name} is {value!r}, expected true or false")
        return value

    def section(self, *names: str) -> Mapping[str, Any]:
        """An object; the first that is not empty, and an empty one if there is none."""
        for name in names:
            value = self.raw.get(name)
            if value:
                if not isinstance(value, Mapping):
                    raise self.refuse(f"{name} is not an object")
                return value
        return {}

    def rope_section(self) -> Mapping[str, Any]:
        """What the config says of rotary positions: `rope_parameters` of transformers 5, `rope_scaling` before.

        Where both stand, transformers takes the latter, and a reader of the other version the former: they must agree.
        """
        parameters, scaling = self.section("rope_parameters"), self.section("rope_scaling")
        for name, value in scaling.items() if parameters else ():
            known = "rope_type" if name == "type" else name
            other = parameters.get(known, "default" if known == "rope_type" else None)
            if value != other:
                raise self.refuse(f"rope_scaling says {name} {value!r:.40}, rope_parameters {other!r:.40}")
        return parameters or scaling

    def ids(self, name: str) -> tuple[int, ...]:
        """Token ids, one or several; () if there are none."""
        return as_ids(self.raw.get(name))


def as_ids(value: Any) -> tuple[int, ...]:
    """Token ids from a number, a list of numbers, or nothing."""
    values = value if isinstance(value, list) else [value]
    return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))
