"""From a Hugging Face checkpoint to a packed model: the work behind `edge-lfm quantize`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_lfm.config import ModelConfig
from edge_lfm.errors import OutputError
from edge_lfm.formats.checkpoint import TOKENIZER_FILES, Checkpoint
from edge_lfm.formats.packed import PackedWriter
from edge_lfm.memory.budget import peak_memory_bytes
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import plan_pieces
from edge_lfm.model.sizes import SizeReport, measure_sizes, slot_of
from edge_lfm.quantize.output import check_output, staged_folder, write_json
from edge_lfm.quantize.pack import ErrorSum, pack_piece
from edge_lfm.quantize.recipes import Recipe

Progress = Callable[[int], object]


@dataclass(frozen=True)
class ConversionReport:
    """`quantization_report.json`."""

    recipe: str
    size: SizeReport
    relative_rmse_by_class: dict[str, float]
    seconds: float
    peak_memory_bytes: int
    warnings: tuple[str, ...]


def plan_conversion(source: Path, recipe: Recipe) -> SizeReport:
    """`--dry-run`: check the checkpoint, and tell what its packed form will weigh."""
    with Checkpoint(source) as checkpoint:
        config = ModelConfig.from_dict(checkpoint.raw_config, str(source / "config.json"))
        pieces = plan_pieces(config, recipe.schemes)
        CheckpointWeights(checkpoint, config, pieces)
        return measure_sizes(config, pieces)


def convert(
    source: Path,
    output: Path,
    recipe: Recipe,
    *,
    force: bool = False,
    progress: Callable[[int], Progress] | None = None,
) -> ConversionReport:
    """Quantize a checkpoint into a packed model folder.

    Args:
        source: folder of the checkpoint.
        output: folder to make; appears only when the model is whole.
        recipe: the schemes and rounding.
        force: replace an existing model.
        progress: called once with the number of bytes to write; the function that it returns is called
            with the bytes of each finished piece.

    Raises:
        EdgeLfmError: the checkpoint is unusable, or the output cannot be written. Nothing is left behind.
    """
    started = time.perf_counter()
    check_output(output, source, force)
    with Checkpoint(source) as checkpoint:
        config = ModelConfig.from_dict(checkpoint.raw_config, str(source / "config.json"))
        pieces = plan_pieces(config, recipe.schemes)
        weights = CheckpointWeights(checkpoint, config, pieces)
        sizes = measure_sizes(config, pieces)
        advance = progress(sum(p.nbytes for p in pieces)) if progress else lambda _bytes: None
        errors: dict[str, ErrorSum] = {}
        warnings = tuple(f"{name} is missing: {why}" for name, why in _missing_files(source))
        with staged_folder(output) as stage:
            check_room(stage, sizes.file_bytes)
            with PackedWriter(stage / "model.safetensors", [slot_of(p) for p in pieces], {"format": "edge_lfm"}) as out:
                for piece in pieces:
                    out.write(pack_piece(piece, weights, recipe, errors))
                    for used in piece.sources:
                        weights.forget(used.name)
                    advance(piece.nbytes)
            report = ConversionReport(
                recipe.name,
                sizes,
                {kind: total.relative_rmse for kind, total in errors.items()},
                time.perf_counter() - started,
                peak_memory_bytes(),
                warnings,
            )
            write_metadata(stage, checkpoint.raw_config, recipe, report)
            for name in TOKENIZER_FILES:
                if (source / name).exists():
                    shutil.copyfile(source / name, stage / name)
    return report


def write_metadata(folder: Path, raw_config: dict[str, Any], recipe: Recipe, report: ConversionReport) -> None:
    """`config.json` with its `quantization_config`, and the report."""
    write_json(folder / "config.json", raw_config | {"quantization_config": recipe.schemes.to_json()})
    write_json(folder / "quantization_report.json", asdict(report))


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse before any work if the disk cannot hold the result.

    Raises:
        OutputError: it cannot.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"{folder.parent}: {needed_bytes / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free",
            hint="free some space, or write to another disk",
        )


def _missing_files(source: Path) -> Iterable[tuple[str, str]]:
    if not (source / "tokenizer.json").exists():
        yield "tokenizer.json", "the model runs on token ids only"
    has_template = (source / "chat_template.jinja").exists() or (source / "tokenizer_config.json").exists()
    if not has_template:
        yield "chat_template.jinja", "chat needs --raw"
