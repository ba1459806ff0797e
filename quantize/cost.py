"""What a calibration, and rounding by one, take, told before they begin: time, and room on the disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np
from threadpoolctl import threadpool_limits

from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.spec.layout import FEEDBACK_ROWS
from edge_lfm.kernels.spec.schemes import SCHEMES, Scheme
from edge_lfm.kernels.spec.tiles import definition
from edge_lfm.model.plan import EXPERT_CLASS, TENSOR_CLASSES, PackedTensor, plan_tensors
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.quantize.calibration import Calibration
from edge_lfm.quantize.feedback import LEAST_TOKENS, can_feed_back, judge_every, max_second_tokens
from edge_lfm.quantize.moments import input_name, moments_shape, piece_columns
from edge_lfm.quantize.pack import encode
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.quantize.rounding import curvatures_of, round_by_output
from edge_lfm.shape import Shape

_TRIED_COLUMNS = 512


@dataclass(frozen=True)
class CalibrationCost:
    """An estimate. `seconds`: of matrix products, on this machine as it is now; `file_bytes`: of what is kept;
    `working_bytes`: of hidden states beside it, until it is done."""

    seconds: float
    file_bytes: int
    working_bytes: int


def calibration_cost(shape: Shape, tokens: int, keep_inputs: bool) -> CalibrationCost:
    """tokens: how many go through the model."""
    tensors = plan_tensors(shape, find_recipe(DEFAULT_RECIPE).schemes)
    inputs = {
        input_name(s.name): s.shape[-1]
        for tensor in tensors
        if tensor.kind in TENSOR_CLASSES and tensor.kind != EXPERT_CLASS
        for s in tensor.sources
    }
    moments = sum(prod(moments_shape(columns)) for columns in inputs.values())
    kept = (2 * shape.hidden + 5 * shape.top_k) * tokens * len(shape.routers) if keep_inputs else 0
    products = (measure_sizes(shape, tensors).active_parameters + moments) * tokens
    return CalibrationCost(products / _products_per_second(), 4 * moments + kept, 8 * tokens * shape.hidden)


def _products_per_second() -> float:
    """Multiplications of float32 matrices of the size that calibration multiplies."""
    a, b = np.ones((512, 2048), np.float32), np.ones((2048, 1536), np.float32)
    a @ b
    started = time.perf_counter()
    a @ b
    return float(512 * 2048 * 1536 / (time.perf_counter() - started))


def rounding_seconds(
    shape: Shape, tensors: Iterable[PackedTensor], calibration: Calibration, kernels: Kernels
) -> float:
    """Seconds of one thread that rounding by output error takes, from small parts measured on this machine as it is
    now. Experts are taken to have seen equally many tokens."""
    seen = calibration.provenance["tokens"] * shape.top_k // max(1, shape.experts)
    fed = {EXPERT_CLASS: calibration.has_inputs and seen >= LEAST_TOKENS * shape.hidden}
    products, seconds = 0.0, 0.0
    per_turn = cache(lambda scheme: _rounding_second(scheme, kernels))
    for tensor in tensors:
        own = tensor.kind == EXPERT_CLASS
        if not fed.get(tensor.kind, calibration.has_moments):
            continue
        for source in tensor.sources:
            scheme = SCHEMES[tensor.scheme_of(source.name)]
            if can_feed_back(scheme):
                seconds += per_turn(scheme) * prod(source.shape) * piece_columns(source.shape[1])
        products += _expert_products(tensor, seen) if own else 0
    with threadpool_limits(1, "blas"):
        return seconds + (products / _products_per_second() if products else 0)


def _expert_products(tensor: PackedTensor, seen: int) -> float:
    """Multiplications outside the loops over columns, for an expert that saw so many tokens: moments of both inputs,
    the second one by exact and by rounded weights, and the judges."""
    w1, _, w2 = (source.shape for source in tensor.sources)
    of_first = w1[1] * piece_columns(w1[1])
    of_second = 2 * w2[1] * piece_columns(w2[1]) + 4 * prod(w1)
    judging = 2 * (4 * prod(w1) + 2 * prod(w2)) / judge_every(seen)
    return seen * (of_first + judging) + min(seen, max_second_tokens(w2)) * of_second


def _rounding_second(scheme: Scheme, kernels: Kernels) -> float:
    """Seconds for each weight and each column of its piece."""
    k, rng = _TRIED_COLUMNS, np.random.default_rng(0)
    w, x = rng.standard_normal((FEEDBACK_ROWS, k), np.float32), rng.standard_normal((2 * k, k), np.float32)
    packed, _ = encode(w, scheme, kernels)
    stored, curvatures = definition(scheme).unpack(packed, scheme, *w.shape), curvatures_of((x.T @ x)[None], 2 * k)
    round_by_output(w, stored, scheme, curvatures, kernels)  # the factor of the moments is made once for many rows
    started = time.perf_counter()
    round_by_output(w, stored, scheme, curvatures, kernels)
    return (time.perf_counter() - started) / (w.size * k)
