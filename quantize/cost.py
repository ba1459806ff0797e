"""What a calibration takes, told before it begins: time, and room on the disk."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from edge_lfm.model.plan import EXPERT_CLASS, TENSOR_CLASSES, plan_tensors
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.quantize.moments import input_name, moments_shape
from edge_lfm.quantize.recipe import DEFAULT_RECIPE, find_recipe
from edge_lfm.shape import Shape


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
    moments = sum(int(np.prod(moments_shape(columns))) for columns in inputs.values())
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
