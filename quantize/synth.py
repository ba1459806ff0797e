"""Packed models of the exact shape of a published one, with random weights: for speed, memory and paging.

Every tensor has bytes of its own, from a seed of its own. Weights have about the spread of trained ones,
so that activations stay in range and every kernel does its full work; what comes out is no language.

Tokens route almost uniformly, the worst case for a cache of experts. For that, a table of embeddings that is not the
head as well has variance 1, and what attention gives has a quarter of its inputs' spread. Else the mean of all values
hides the token itself: of 128 experts, 64 tokens of Qwen3-30B's shape chose 31 in the last layer. Now they choose 124.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.architectures import read_shape
from edge_lfm.architectures.dspark import read_drafter
from edge_lfm.formats.packed import PackedWriter
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS
from edge_lfm.kernels.spec.tiles import definition
from edge_lfm.memory.budget import peak_memory_bytes
from edge_lfm.model.drafter_plan import plan_drafter
from edge_lfm.model.packed_drafter import target_of
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import EMBEDDING, ROUTER_CLASS, Matrix, PackedTensor, plan_tensors
from edge_lfm.model.sizes import measure_sizes, spec_of
from edge_lfm.quantize.convert import METADATA, Progress, check_room
from edge_lfm.quantize.output import check_output, staged_folder
from edge_lfm.quantize.recipe import Recipe
from edge_lfm.quantize.report import ConversionReport, write_metadata
from edge_lfm.quantize.screen import with_screen

_ATTENTION_OUT = "self_attn.out_proj.weight"
_ATTENTION_FACTOR, _ROUTER_FACTOR = 0.25, 4.0
"""Of the spread. A router's logits are wide enough to tell experts apart."""


def synthesize(
    raw_config: dict[str, Any],
    output: Path,
    recipe: Recipe,
    *,
    force: bool = False,
    seed: int = 0,
    target: Path | None = None,
    progress: Callable[[int], Progress] | None = None,
) -> ConversionReport:
    """Write a packed model with random weights, or with a `target` a drafter; arguments are those of `convert.convert`.

    Raises:
        EdgeLfmError: the output cannot be written. Nothing is left behind.
    """
    started = time.perf_counter()
    check_output(output, None, force)
    provenance: dict[str, Any] = {"source": "random weights"}
    if target is None:
        shape = read_shape(raw_config)
        tensors = plan_tensors(shape, recipe.schemes)
    else:
        drafter = read_drafter(raw_config, "config.json")
        shape, tensors = drafter.body, plan_drafter(drafter, recipe.schemes)
        with PackedModel(target) as model:
            provenance["target"] = target_of(model).to_json()
    sizes = measure_sizes(shape, tensors)
    advance = progress(sum(p.nbytes for p in tensors)) if progress else lambda _bytes: None
    warnings = ("random weights: for measurements only",)
    named = replace(recipe, schemes=replace(recipe.schemes, recipe=f"{recipe.name}, random weights"))
    report = ConversionReport(named.to_json(), provenance, sizes, {}, {}, "0 of 0", warnings)
    with staged_folder(output, force=force) as stage:
        check_room(stage.parent, sizes.file_bytes)
        with PackedWriter(stage / "model.safetensors", [spec_of(p) for p in tensors], METADATA) as out:
            for n, tensor in enumerate(tensors):
                out.write(n, random_tensor(tensor, np.random.Generator(np.random.SFC64([seed, n])), shape.tied))
                advance(tensor.nbytes)
        write_metadata(stage, raw_config, named, report)
    return replace(report, seconds=time.perf_counter() - started, peak_memory_bytes=peak_memory_bytes())


def random_tensor(tensor: PackedTensor, rng: np.random.Generator, tied: bool = True) -> NDArray[Any]:
    """One tensor: norms are 1, biases 0, matrices random with the spread of `spread_of`."""
    if tensor.floats is not None:
        shape = tensor.floats.shape
        if tensor.name.endswith("conv.conv.weight"):
            return rng.standard_normal(shape, np.float32) * np.float32(0.5)
        return np.zeros(shape, np.float32) if tensor.name.endswith("bias") else np.ones(shape, np.float32)
    biases = np.zeros(tensor.nbytes - tensor.bias_offset if tensor.biases else 0, np.uint8)
    tiles = np.concatenate([*(_random_matrix(m, spread_of(m, tensor, tied), rng) for m in tensor.matrices), biases])
    if tensor.screen is None:
        return tiles
    return np.concatenate(with_screen(tiles, tensor.matrices[0], tensor.screen, load_kernels()))


def spread_of(matrix: Matrix, tensor: PackedTensor, tied: bool) -> float:
    """The standard deviation of a matrix's weights."""
    if tensor.name == EMBEDDING and not tied:
        return 1.0
    factor = 1.0
    if tensor.kind == ROUTER_CLASS:
        factor = _ROUTER_FACTOR
    elif tensor.name.endswith(_ATTENTION_OUT):
        factor = _ATTENTION_FACTOR
    return factor * float(matrix.cols**-0.5)


def _random_matrix(matrix: Matrix, spread: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    scheme = SCHEMES[matrix.scheme]
    tiles: NDArray[np.uint8] = definition(scheme).random_tiles(
        scheme, -(-matrix.rows // TILE_ROWS), matrix.cols, spread, rng
    )
    return tiles
