"""What calibration text showed of a checkpoint: which inputs of each matrix matter, and what the experts get to see.

A folder: `statistics.safetensors` holds, for every matrix, the mean square of each input column, of experts weighted
by the square of their routing weight, and the sum of those weights; `layer-N.safetensors` and `inputs-N.safetensors`
as `observed.py` says, which calibrations of earlier versions may lack. Made by `collect`, read by the quantizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from edge_lfm.errors import ModelFileError, UsageError
from edge_lfm.formats.checkpoint import HubCheckpoint
from edge_lfm.formats.file_list import check_unchanged
from edge_lfm.formats.safetensors import SafetensorsFile
from edge_lfm.formats.strict import json_object
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.memory.forecast import read_forecast
from edge_lfm.memory.policy import FORECAST_FILE
from edge_lfm.model.plan import PackedTensor, plan_tensors
from edge_lfm.quantize.moments import input_name, moments_shape
from edge_lfm.quantize.observed import HEAD, inputs_path, layer_name, layer_path
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.shape import Shape

STATISTICS = "statistics.safetensors"
PRIOR_TOKENS = 64
"""An expert's own statistics weigh as much as its layer's when it saw this many tokens: importance weights reach their
full gain with about 64."""
_FLOOR = 1e-3
"""The least importance of a column, as a share of the mean: a column that calibration never saw still matters."""


@dataclass(frozen=True)
class Inputs:
    """What one expert got to see: inputs float16 [t, H] and routing weights float32 [t]."""

    x: NDArray[np.float16]
    weight: F32


@dataclass(frozen=True)
class Calibration:
    """An open calibration; `provenance` is what a packed model remembers of it."""

    folder: Path
    provenance: dict[str, Any]
    squares: dict[str, F32]  # matrix -> mean square of each input column
    tokens: dict[str, F32]  # expert matrix -> sum of squared routing weights, in tokens

    @classmethod
    def load(cls, folder: Path, checkpoint: HubCheckpoint, shape: Shape) -> Calibration:
        """Open what `collect` wrote.

        Raises:
            ModelFileError: it is missing or damaged.
            UsageError: it was made from another checkpoint.
        """
        path = folder / STATISTICS
        arrays, provenance = _read_statistics(path)
        if provenance.get("checkpoint") != checkpoint.fingerprint():
            raise UsageError(
                f"{folder} was made from another checkpoint than {checkpoint.path}",
                hint=f"calibrate this one: edge-lfm calibrate {checkpoint.path} --text FILE -o CAL",
            )
        check_unchanged(path)
        _check_arrays(arrays, shape, path)
        squares = {name.removeprefix("squares/"): a for name, a in arrays.items() if name.startswith("squares/")}
        tokens = {name.removeprefix("tokens/"): a for name, a in arrays.items() if name.startswith("tokens/")}
        calibration = cls(folder, provenance, squares, tokens)
        if calibration.has_forecast:
            read_forecast(folder / FORECAST_FILE, len(shape.routers), shape.experts)
        return calibration

    @property
    def hash(self) -> str:
        """What the packed bytes depend on."""
        return hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode()).hexdigest()

    @property
    def has_inputs(self) -> bool:
        return bool(self.provenance.get("inputs"))

    @property
    def has_forecast(self) -> bool:
        return (self.folder / FORECAST_FILE).exists()

    def importance_of(self, tensor: PackedTensor) -> dict[str, F32]:
        """The weights of the columns of each source of a tensor, for the search of scales."""
        importance = {}
        for source in tensor.sources:
            name = source.name.replace(".w3.", ".w1.")  # the same inputs
            layer = layer_name(name)
            if name not in self.squares and layer not in self.squares:
                continue
            squares = self.squares.get(name, np.float32(0))
            if name in self.tokens and layer in self.squares:
                seen = float(self.tokens[name][0])
                squares = (seen * squares + PRIOR_TOKENS * self.squares[layer]) / np.float32(seen + PRIOR_TOKENS)
            elif name not in self.squares:
                squares = self.squares[layer]
            importance[source.name] = (squares + _FLOOR * squares.mean()).astype(np.float32)
        return importance

    @property
    def has_moments(self) -> bool:
        return bool(self.provenance.get("moments"))

    def moments_of(self, matrix: str, layer: int | None, columns: int) -> F32 | None:
        """Mean products of the inputs' columns [pieces, k, k] of a matrix that every token passes, if they are kept.

        layer: the matrix's, or None for the head; columns: the matrix's.

        Raises:
            ModelFileError: the layer's file is missing or damaged.
        """
        if not self.has_moments:
            return None
        path, name = layer_path(self.folder, HEAD if layer is None else layer), f"moments/{input_name(matrix)}"
        with SafetensorsFile(path) as file:
            if name not in file.tensors:
                return None
            moments = file.read(name)
            fits = moments.dtype == np.float32 and moments.shape == moments_shape(columns)
            if not fits or not np.isfinite(moments).all():
                raise ModelFileError(f"{path}: {name} holds no finite products of columns", hint=_REMAKE)
            return np.array(moments)

    def inputs_of(self, layer: int, expert: int) -> Inputs:
        """What an expert saw; empty if nothing.

        Raises:
            ModelFileError: the file of that layer is missing or damaged.
        """
        path = inputs_path(self.folder, layer)
        with SafetensorsFile(path) as file:
            x, chosen, weight = (file.stored(name) for name in ("x", "chosen", "weight"))
            if x.ndim != 2 or chosen.ndim != 2 or weight.shape != chosen.shape or len(x) != len(chosen):
                what = f"shapes {x.shape}, {chosen.shape} and {weight.shape} do not belong together"
                raise ModelFileError(f"{path} is damaged: {what}", hint=_REMAKE)
            token, rank = np.nonzero(chosen == expert)
            seen = Inputs(x[token], weight[token, rank])
        if not np.isfinite(seen.x).all() or not np.isfinite(seen.weight).all():
            raise ModelFileError(f"{path} is damaged: NaN or infinity", hint=_REMAKE)
        return seen


def _read_statistics(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays by name, and the provenance."""
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            provenance = json_object(file.metadata()["provenance"].encode(), str(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, ModelFileError) as error:
        raise ModelFileError(f"{path} is no calibration: {error}", hint="make one with edge-lfm calibrate") from None
    return arrays, provenance


def _check_arrays(arrays: Mapping[str, NDArray[Any]], shape: Shape, path: Path) -> None:
    """Every array is of a matrix of the model and has a number for each of its columns: compiled code reads as many."""
    tensors = plan_tensors(shape, find_recipe(DEFAULT_RECIPE).schemes)
    columns = {source.name: source.shape[-1] for tensor in tensors for source in tensor.sources}
    columns |= {layer_name(name): count for name, count in columns.items()}
    for name, array in arrays.items():
        kind, _, matrix = name.partition("/")
        expected = {"squares": columns.get(matrix), "tokens": 1 if matrix in columns else None}.get(kind)
        if expected is None:
            raise ModelFileError(f"{path}: {name!r:.120} is of no matrix of this model", hint=_REMAKE)
        if array.dtype != np.float32 or array.shape != (expected,):
            raise ModelFileError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}, expected float32 [{expected}]", hint=_REMAKE
            )
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ModelFileError(f"{path}: {name} holds NaN, infinity or a negative number", hint=_REMAKE)


_REMAKE = "make the calibration again: edge-lfm calibrate"
