"""From a Hugging Face checkpoint to a packed model: the work behind `edge-lfm quantize`.

Tensors are packed by a few threads in any order and written where they belong; the journal says which ones are on
disk. What comes out depends on the checkpoint, the recipe and the calibration alone: not on threads, time, or how
often the run was resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from threadpoolctl import threadpool_limits

from edge_lfm.architectures.dspark import is_drafter, read_drafter
from edge_lfm.errors import OutputError, UsageError
from edge_lfm.formats.checkpoint import HubCheckpoint
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.formats.packed import PackedWriter
from edge_lfm.kernels.load.library import Kernels, load_kernels
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.machine.processors import choose_threads
from edge_lfm.memory.budget import peak_memory_bytes
from edge_lfm.memory.policy import FORECAST_FILE
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.drafter_plan import DrafterWeights, Target, check_target, plan_drafter
from edge_lfm.model.packed_drafter import target_of
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import PackedTensor, plan_tensors
from edge_lfm.model.sizes import SizeReport, measure_sizes, spec_of
from edge_lfm.quantize.calibration import Calibration
from edge_lfm.quantize.cost import rounding_seconds
from edge_lfm.quantize.feedback import FeedbackPacker
from edge_lfm.quantize.journal import Journal, Unit
from edge_lfm.quantize.output import JOURNAL, check_output, staged_folder
from edge_lfm.quantize.pack import Packed, pack_tensor
from edge_lfm.quantize.recipe import Recipe, find_recipe, recipe_like
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.quantize.report import ConversionReport, make_report, write_metadata
from edge_lfm.quantize.screen import with_screen
from edge_lfm.shape import Shape

Progress = Callable[[int], object]
_JOURNAL_LINE_BYTES = 512
_LARGE = 1 << 26
"""Weights: 256 MB as float32."""
METADATA = {"format": "edge_lfm"}
FULL_TOKENS = 8
"""Tokens per column of an expert from which on error feedback has most of its gain: on the demo model, 8 instead of 64
lost half of what it gains on experts."""


@dataclass(frozen=True)
class _Job:
    """All that packing a tensor needs."""

    tensors: list[PackedTensor]
    weights: CheckpointWeights
    recipe: Recipe
    kernels: Kernels
    calibration: Calibration | None
    writer: PackedWriter
    large: Lock = field(default_factory=Lock)
    """Held while a tensor of more than `_LARGE` weights is packed, so that there is one of them in memory."""

    def pack(self, index: int) -> Unit:
        """Pack and write one tensor; runs in a thread of the pool."""
        tensor = self.tensors[index]
        with self.large if sum(math.prod(s.shape) for s in tensor.sources) > _LARGE else nullcontext():
            packed, kept = self._packed(tensor)
            pieces = [packed.data]
            if tensor.screen is not None:
                pieces = with_screen(packed.data, tensor.matrices[0], tensor.screen, self.kernels)
            checksum = self.writer.write(index, *pieces)
            for used in tensor.sources:
                self.weights.forget(used.name)
        return Unit(index, checksum, packed.error.error, packed.error.signal, packed.sources, kept)

    def fits(self, index: int, unit: Unit) -> bool:
        """Whether a journal's line can be of the tensor `index`."""
        return 0 <= index < len(self.tensors) and len(unit.sources) == len(self.tensors[index].sources)

    def _packed(self, tensor: PackedTensor) -> tuple[Packed, tuple[bool, ...]]:
        calibration = self.calibration
        if calibration is None:
            return pack_tensor(tensor, self.weights, self.recipe, self.kernels, {}), ()
        if tensor.matrices and not self.recipe.plain:
            return FeedbackPacker(self.weights, self.recipe, self.kernels, calibration).pack(tensor)
        return pack_tensor(tensor, self.weights, self.recipe, self.kernels, calibration.importance_of(tensor)), ()


def plan_conversion(source: Path, recipe: Recipe | None) -> SizeReport:
    """`--dry-run`: check the checkpoint, and tell what its packed form will weigh; `recipe` as of `convert`."""
    with open_checkpoint(source) as checkpoint:
        _, tensors, weights = _plan(checkpoint, recipe)
        return measure_sizes(weights.shape, tensors)


def _plan(checkpoint: HubCheckpoint, recipe: Recipe | None) -> tuple[Recipe, list[PackedTensor], CheckpointWeights]:
    """The recipe, the tensors it makes, and the weights they are made of."""
    if is_drafter(checkpoint.raw_config):
        recipe = recipe or find_recipe(DEFAULT_RECIPE)
        drafter = read_drafter(checkpoint.raw_config, checkpoint.config_source)
        tensors = plan_drafter(drafter, recipe.schemes)
        return recipe, tensors, DrafterWeights(checkpoint, drafter, tensors)
    shape = checkpoint.describe()
    tensors = plan_tensors(shape, (recipe or find_recipe(DEFAULT_RECIPE)).schemes)
    weights = CheckpointWeights(checkpoint, shape, tensors)
    if recipe is None:
        recipe = recipe_like(weights, tensors)
        tensors = plan_tensors(shape, recipe.schemes)
    return recipe, tensors, weights


def convert(
    source: Path,
    output: Path,
    recipe: Recipe | None,
    *,
    calibration: Path | None = None,
    target: Path | None = None,
    resume: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Callable[[int], Progress] | None = None,
    estimate: Callable[[float], object] | None = None,
    open_source: Callable[[Path], HubCheckpoint] = open_checkpoint,
) -> ConversionReport:
    """Quantize a checkpoint, or a GGUF file, into a packed model folder.

    Args:
        source: folder of the checkpoint, or GGUF file.
        output: folder to make; appears only when the model is whole.
        recipe: the schemes and rounding; None: the default, or of a quantized source the nearest to its own.
        calibration: file that `edge-lfm calibrate` made from the same checkpoint.
        target: of a drafter, the packed model that it is for.
        resume: go on with an interrupted run of the same source, recipe and calibration.
        force: replace an existing model or an interrupted run.
        threads: default: the physical cores that this process may use.
        progress: bytes to write -> a function that is called with the bytes of each finished tensor.
        estimate: called with the seconds that rounding by a calibration will take.
        open_source: opens the source; one opened in another way has weights that lie elsewhere.

    Raises:
        EdgeLfmError: an unusable checkpoint or output. An interrupted run leaves only finished tensors to resume from.
    """
    started, count = time.perf_counter(), choose_threads(threads)
    check_output(output, source, force)
    with open_source(source) as checkpoint:
        its_target = _target(checkpoint, target, calibration)
        recipe, tensors, weights = _plan(checkpoint, recipe)
        known = Calibration.load(calibration, checkpoint, weights.shape) if calibration else None
        fingerprint = _fingerprint(checkpoint, recipe, known, its_target)
        warnings = () if its_target else tuple(_warnings(checkpoint, weights.shape, recipe, known))
        sizes = measure_sizes(weights.shape, tensors)
        kernels = load_kernels()
        with staged_folder(output, resume, force) as stage:
            needed = sizes.file_bytes + _bytes_beside(checkpoint, tensors)
            check_room(stage.parent, needed, stage / "model.safetensors")
            specs = [spec_of(tensor) for tensor in tensors]
            with Journal(stage / JOURNAL, fingerprint) as journal:
                with PackedWriter(stage / "model.safetensors", specs, METADATA, resume) as writer:
                    journal.flush = writer.flush
                    job = _Job(tensors, weights, recipe, kernels, known, writer)
                    units, resumed = _run(job, journal, count, progress, estimate)
                report = make_report(recipe, checkpoint, known, sizes, tensors, units, warnings, its_target)
                if known is not None and known.has_forecast:
                    shutil.copyfile(known.folder / FORECAST_FILE, stage / FORECAST_FILE)
                _write_model(stage, checkpoint, recipe, report)
            (stage / JOURNAL).unlink()
    took = time.perf_counter() - started
    return ConversionReport(
        **vars(report) | {"seconds": took, "peak_memory_bytes": peak_memory_bytes(), "resumed_tensors": resumed}
    )


def _bytes_beside(checkpoint: HubCheckpoint, tensors: list[PackedTensor]) -> int:
    """Of the other files of a model, and the journal."""
    return sum(len(content) for content in checkpoint.text_files.values()) + _JOURNAL_LINE_BYTES * len(tensors)


def _run(
    job: _Job,
    journal: Journal,
    threads: int,
    progress: Callable[[int], Progress] | None,
    estimate: Callable[[float], object] | None,
) -> tuple[list[Unit], int]:
    """Pack every tensor that the journal does not have; the units of all tensors in order, and how many it had."""
    advance = progress(sum(p.nbytes for p in job.tensors)) if progress else lambda _bytes: None
    units = {n: unit for n, unit in journal.units.items() if job.fits(n, unit) and job.writer.accept(n, unit.checksum)}
    for n in units:
        advance(job.tensors[n].nbytes)
    resumed, left = len(units), [n for n in range(len(job.tensors)) if n not in units]
    if estimate and job.calibration and not job.recipe.plain:
        tensors = [job.tensors[n] for n in left]
        estimate(rounding_seconds(job.weights.shape, tensors, job.calibration, job.kernels) / threads)
    # A thread multiplies matrices by itself: threads of BLAS on top spin (7 times the time), and change the sums.
    with threadpool_limits(1, "blas"):
        for unit in _in_threads(job.pack, left, threads):
            units[unit.index] = unit
            journal.note(unit)
            advance(job.tensors[unit.index].nbytes)
    journal.sync()
    return [units[n] for n in range(len(job.tensors))], resumed


def _in_threads(work: Callable[[int], Unit], indices: Iterable[int], threads: int) -> Iterator[Unit]:
    """Results as they come, with two tensors a thread under way at most; an exception ends all.

    What was finished beside a failure comes before it, so that a resumed run need not do it again.
    """
    waiting = iter(indices)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="edge-lfm-pack")
    running: set[Future[Unit]] = set()
    try:
        while True:
            while len(running) < 2 * threads and (index := next(waiting, None)) is not None:
                running.add(pool.submit(work, index))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda finished: finished.exception() is not None):
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _target(checkpoint: HubCheckpoint, target: Path | None, calibration: Path | None) -> Target | None:
    """The model that a drafter is for; None: the checkpoint is no drafter.

    Raises:
        UsageError: a target is missing, or there is nothing to do with it.
        DrafterError: the drafter is of another model.
    """
    if not is_drafter(checkpoint.raw_config):
        if target is not None:
            raise UsageError(f"{checkpoint.path} is no drafter", hint="leave out --target")
        return None
    if target is None:
        raise UsageError(f"{checkpoint.path} is a drafter", hint="give the packed model that it is for, with --target")
    if calibration is not None:
        raise UsageError("a drafter has no calibration", hint="leave out --calibration")
    with PackedModel(target) as model:
        drafter = read_drafter(checkpoint.raw_config, checkpoint.config_source)
        check_target(drafter, model.shape, str(checkpoint.path), str(target))
        return target_of(model)


def _fingerprint(
    checkpoint: HubCheckpoint, recipe: Recipe, calibration: Calibration | None, target: Target | None
) -> str:
    parts = {
        "source": checkpoint.fingerprint(),
        "recipe": recipe.to_json(),
        "layout_version": LAYOUT_VERSION,
        "calibration": calibration.hash if calibration else None,
    }
    if target is not None:
        parts["target"] = target.to_json()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write_model(stage: Path, checkpoint: HubCheckpoint, recipe: Recipe, report: ConversionReport) -> None:
    for name, content in checkpoint.text_files.items():
        (stage / name).write_bytes(content)
    write_metadata(stage, checkpoint.raw_config, recipe, report)


def check_room(folder: Path, needed_bytes: int, existing: Path | None = None) -> None:
    """Refuse before any work if a folder's disk cannot hold the result; `existing`: a file whose room will be used.

    Raises:
        OutputError: it cannot.
    """
    free = shutil.disk_usage(folder).free
    if existing is not None and existing.exists():
        free += existing.stat().st_blocks * 512
    if free < needed_bytes:
        raise OutputError(
            f"{folder}: {needed_bytes / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free",
            hint="free some space, or write to another disk",
        )


def _warnings(
    checkpoint: HubCheckpoint, shape: Shape, recipe: Recipe, calibration: Calibration | None
) -> Iterable[str]:
    if checkpoint.left_out:
        yield checkpoint.left_out
    if "tokenizer.json" not in checkpoint.text_files:
        yield "tokenizer.json is missing: the model runs on token ids only"
    if not checkpoint.text_files.keys() & {"chat_template.jinja", "tokenizer_config.json"}:
        yield "chat_template.jinja is missing: chat needs --raw"
    if calibration is None or recipe.plain:
        return
    again = f"edge-lfm calibrate {checkpoint.path} --text FILE --keep-inputs -o CAL"
    if not calibration.has_moments:
        yield f"the calibration is of an earlier version, without second moments; a new one gives less error: {again}"
    if shape.experts and not calibration.has_inputs:
        yield f"the calibration has no inputs of experts, so these are rounded without error feedback: {again}"
    needed = FULL_TOKENS * shape.hidden * max(1, shape.experts // max(1, shape.top_k))
    if calibration.provenance["tokens"] < needed:
        yield (
            f"the calibration has {calibration.provenance['tokens']:,} tokens: with less than {needed:,}, "
            f"error feedback loses up to half of its gain; give more text, and --tokens {needed}"
        )
