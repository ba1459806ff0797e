"""DSpark drafters (LFM2.5-*-DSpark): what their `config.json` means.

A body of Qwen3's layers without embedding and head, between a matrix that takes the target's streams in and two small
heads. Sources: Liquid's published configs; `Lfm2DSparkDraftModel` of llama.cpp's `conversion/qwen.py`; SpecForge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_lfm.architectures import qwen
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Drafter

_CLASS = "Lfm2DSparkDraftModel"
_MAX_SLOTS, _MAX_TAPS, _MAX_RANK = 32, 32, 1 << 12


def is_drafter(raw: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is a drafter's."""
    return raw.get("architectures") == [_CLASS]


def read_drafter(raw: Mapping[str, Any], where: str) -> Drafter:
    """The description of the drafter of a `config.json`; `where` stands in messages.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    config = ConfigReader(raw, where, f"edge-lfm runs drafters of the class {_CLASS}")
    if not is_drafter(raw) or raw.get("model_type") != qwen.DENSE:
        form = f"architectures {raw.get('architectures')!r:.80} with model_type {raw.get('model_type')!r:.40}"
        raise config.refuse(f"{form} is no drafter")
    for name, only in (
        ("markov_head_type", "vanilla"), ("enable_confidence_head", True), ("sample_from_anchor", True),
        ("is_causal", False), ("projector_type", None), ("sliding_window", None),
    ):  # fmt: skip
        if raw.get(name, only) != only:
            raise config.refuse(f"{name} {raw[name]!r:.40} is not implemented, only {only!r}")
    if "markov_head_type" not in raw or "enable_confidence_head" not in raw:
        raise config.refuse("a drafter without a Markov head or a confidence head is not implemented")
    section = ConfigReader(config.section("dflash_config"), f"{where}: dflash_config", config.hint)
    body, layers = qwen.read(config), section.number("num_target_layers", greatest=1 << 10)
    rank = config.number("markov_rank", greatest=_MAX_RANK)
    if rank % 32:
        raise config.refuse(f"markov_rank is {rank}, expected a multiple of 32")
    return Drafter(
        body,
        target_layers=layers,
        taps=_taps(section, layers),
        mask=section.number("mask_token_id", least=0, greatest=body.vocab - 1),
        slots=config.number("block_size", greatest=_MAX_SLOTS),
        rank=rank,
        interleaved=not config.flag("rope_is_neox_style", default=True),
    )


def _taps(section: ConfigReader, layers: int) -> tuple[int, ...]:
    taps = section.raw.get("target_layer_ids")
    if (
        not isinstance(taps, list)
        or not 0 < len(taps) <= _MAX_TAPS
        or not all(type(n) is int and 0 <= n < layers for n in taps)
        or taps != sorted(set(taps))
    ):
        raise section.refuse(f"target_layer_ids {taps!r:.80} does not name layers of 0..{layers - 1} in order")
    return tuple(taps)
