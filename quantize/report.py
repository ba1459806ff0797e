"""What a quantization tells of its result: sizes, rounding errors by class and layer, and where everything came from.

Depends on the packed tensors only, not on how long they took, so that equal models have equal reports.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_lfm.formats.checkpoint import HubCheckpoint, licence_title
from edge_lfm.model.drafter_plan import Target
from edge_lfm.model.plan import PackedTensor
from edge_lfm.model.sizes import SizeReport
from edge_lfm.quantize.calibration import Calibration
from edge_lfm.quantize.card import CARD, model_card
from edge_lfm.quantize.journal import Unit
from edge_lfm.quantize.output import write_json
from edge_lfm.quantize.pack import ErrorSum
from edge_lfm.quantize.recipe import Recipe
from edge_lfm.version import VERSION


@dataclass(frozen=True)
class ConversionReport:
    """`quantization_report.json`, less the last three: what a run took does not belong to what it made."""

    recipe: dict[str, Any]
    provenance: dict[str, Any]
    size: SizeReport
    relative_rmse_by_class: dict[str, float]
    relative_rmse_by_layer: dict[str, dict[str, float]]  # class -> layer -> error
    feedback_kept: str  # "kept of tried", matrices
    warnings: tuple[str, ...]
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    resumed_tensors: int = 0

    def to_json(self) -> dict[str, Any]:
        """What is stored."""
        return {k: v for k, v in asdict(self).items() if k not in ("seconds", "peak_memory_bytes", "resumed_tensors")}


def make_report(
    recipe: Recipe,
    checkpoint: HubCheckpoint,
    calibration: Calibration | None,
    sizes: SizeReport,
    tensors: list[PackedTensor],
    units: list[Unit],
    warnings: tuple[str, ...],
    target: Target | None = None,
) -> ConversionReport:
    by_class: dict[str, ErrorSum] = {}
    by_layer: dict[str, dict[str, ErrorSum]] = {}
    for tensor, unit in zip(tensors, units, strict=True):
        if tensor.matrices:
            by_class.setdefault(tensor.kind, ErrorSum()).add(unit.error, unit.signal)
            if tensor.layer is not None:
                layers = by_layer.setdefault(tensor.kind, {})
                layers.setdefault(str(tensor.layer), ErrorSum()).add(unit.error, unit.signal)
    sources = hashlib.sha256()
    for tensor, unit in zip(tensors, units, strict=True):
        for source, digest in zip(tensor.sources, unit.sources, strict=True):
            sources.update(f"{source.name} {list(source.shape)} {digest}\n".encode())
    provenance = {
        "source": checkpoint.path.resolve().name,
        "source_hash": sources.hexdigest(),
        "recipe_hash": hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest(),
        "edge_lfm_version": VERSION,
        "calibration": calibration.provenance if calibration else None,
    }
    licence = licence_title(checkpoint.text_files)
    if licence is not None:
        provenance["licence"] = licence
    if target is not None:
        provenance["target"] = target.to_json()
    kept = [decision for unit in units for decision in unit.feedback]
    return ConversionReport(
        recipe.to_json(),
        provenance,
        sizes,
        {kind: total.relative_rmse for kind, total in by_class.items()},
        {kind: {n: total.relative_rmse for n, total in layers.items()} for kind, layers in by_layer.items()},
        f"{sum(kept)} of {len(kept)}",
        warnings,
    )


def write_metadata(folder: Path, raw_config: dict[str, Any], recipe: Recipe, report: ConversionReport) -> None:
    """Report and card, then `config.json` with its `quantization_config`, which makes the folder a model."""
    write_json(folder / "quantization_report.json", report.to_json())
    (folder / CARD).write_text(model_card(report.to_json()), encoding="utf-8")
    packing = recipe.schemes.to_json() | {"provenance": report.provenance}
    write_json(folder / "config.json", raw_config | {"quantization_config": packing})
