"""The published models, by name: the shapes that `edge-lfm synth` and `fit` know. A file for each family.

Values are from the hub's config.json files or their documented equivalents (docs/models.md says which were not at
hand); parameter counts equal the model cards' (tested).
"""

from __future__ import annotations

from typing import Any

from edge_lfm.errors import UsageError
from edge_lfm.quantize.families import afmoe, gpt_oss, hunyuan, latent, lfm2, lfm3, minimax, olmoe, qwen

PUBLISHED: dict[str, dict[str, Any]] = {
    name: config
    for family in (lfm2, lfm3, qwen, olmoe, afmoe, minimax, gpt_oss, hunyuan, latent)
    for name, config in family.MODELS.items()
}
"""`config.json` by the model's name."""

SMALLER = ("lfm2.5-8b-a1b", "lfm2.5-2.6b", "lfm2.5-1.2b", "lfm2-700m", "lfm2-350m")
"""What to take where a model does not fit, large ones first."""


def family_config(name: str) -> dict[str, Any]:
    """The config.json of a published model.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PUBLISHED:
        raise UsageError(f"unknown model shape '{name}'", hint=f"choose one of {', '.join(PUBLISHED)}")
    return dict(PUBLISHED[name])
