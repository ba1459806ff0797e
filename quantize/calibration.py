"""What calibration text showed of a checkpoint: which inputs of each matrix matter, and what the experts get to see.

A folder: `statistics.safetensors` holds, for every matrix, the mean square of each input column, of experts weighted
by the square of their routing weight, and how many tokens each expert saw; `inputs-N.safetensors`, if kept, the inputs
of layer N's experts and where each token went. Made by `collect`, read by the quantizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edge_lfm.errors import ModelFileError, OutputError, UsageError
from edge_lfm.formats.checkpoint import HubCheckpoint
from edge_lfm.formats.file_list import check_unchanged
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.formats.strict import json_object
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.memory.forecast import read_forecast
from edge_lfm.memory.policy import FORECAST_FILE
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import PackedTensor, plan_tensors
from edge_lfm.model.streamed import StreamedModel
from edge_lfm.quantize.forecast import fit_forecast
from edge_lfm.quantize.recipe import DEFAULT_RECIPE, find_recipe
from edge_lfm.shape import Shape

STATISTICS = "statistics.safetensors"
PRIOR_TOKENS = 64
"""An expert's own statistics weigh as much as its layer's when it saw this many tokens: importance weights reach their
full gain with about 64."""
FEW_TOKENS = 64
"""Experts that saw fewer tokens are reported."""
_FLOOR = 1e-3
"""The least importance of a column, as a share of the mean: a column that calibration never saw still matters."""


@dataclass(frozen=True)
class Inputs:
    """What one expert got to see: inputs float32 [t, H] and routing weights [t]."""

    x: F32
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
            layer = _layer_name(name)
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

    def inputs_of(self, layer: int, expert: int) -> Inputs:
        """What an expert saw; empty if nothing.

        Raises:
            ModelFileError: the file of that layer is missing or damaged.
        """
        path = _inputs_path(self.folder, layer)
        try:
            return self._read_inputs(path, expert)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelFileError(f"{path} is damaged: {error}", hint="make the calibration again") from None

    def _read_inputs(self, path: Path, expert: int) -> Inputs:
        with safe_open(path, "numpy") as file:
            chosen, weight = file.get_tensor("chosen"), file.get_tensor("weight")
            shape = file.get_slice("x").get_shape()
            if chosen.ndim != 2 or weight.shape != chosen.shape or len(shape) != 2 or shape[0] != len(chosen):
                raise ValueError(f"shapes {chosen.shape}, {weight.shape} and {shape} do not belong together")
            token, rank = np.nonzero(chosen == expert)
            rows = file.get_slice("x")
            x = (
                np.array([rows[int(t)] for t in token]).reshape(-1, shape[1])
                if len(token) < len(chosen) // 64
                else file.get_tensor("x")[token]
            )
        if not np.isfinite(x).all() or not np.isfinite(weight).all():
            raise ValueError("NaN or infinity")
        return Inputs(x.astype(np.float32), weight[token, rank].astype(np.float32))


@dataclass
class _Sums:
    """Weighted sums of squares of a matrix's inputs."""

    squares: Any = 0.0
    weight: float = 0.0

    def add(self, x: F32, weight: F32 | None = None) -> None:
        if weight is None:
            self.squares = self.squares + np.einsum("tk,tk->k", x, x, dtype=np.float64)
            self.weight += len(x)
        else:
            self.squares = self.squares + np.einsum("t,tk,tk->k", weight.astype(np.float64), x, x)
            self.weight += float(weight.sum())

    @property
    def mean(self) -> F32:
        return np.asarray(self.squares / max(self.weight, 1e-30), np.float32)


@dataclass
class _Collector:
    """The observer of `StreamedModel` that adds everything up."""

    folder: Path
    keep_inputs: bool
    sums: dict[str, _Sums] = field(default_factory=dict)
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    choices: dict[int, I64] = field(default_factory=dict)

    def matrix(self, name: str, x: F32) -> None:
        self.sums.setdefault(name, _Sums()).add(x)

    def routed(self, layer: int, x: F32, chosen: I64, weight: F32) -> None:
        if self.keep_inputs:
            arrays = {"x": x.astype(np.float16), "chosen": chosen.astype(np.uint8 if chosen.max() < 256 else np.int64)}
            _save(arrays | {"weight": weight}, _inputs_path(self.folder, layer))
        self.choices[layer] = chosen

    def expert(self, layer: int, expert: int, x: F32, gated: F32, weight: F32) -> None:
        at, power = f"model.layers.{layer}.feed_forward.experts", np.square(weight)
        self.seen[layer, expert] = len(x)
        for name, values in (("w1", x), ("w2", gated)):
            self.sums.setdefault(f"{at}.{expert}.{name}.weight", _Sums()).add(values, power)
            self.sums.setdefault(_layer_name(f"{at}.{expert}.{name}.weight"), _Sums()).add(values, power)


@dataclass(frozen=True)
class CalibrationReport:
    """What `edge-lfm calibrate` tells."""

    tokens: int
    text_sha256: str
    experts: int
    rare_experts: tuple[str, ...]  # "layer L expert E: n tokens"
    fewest_tokens: int


def collect(
    source: Path,
    text: bytes,
    windows: Sequence[NDArray[np.int64]],
    output: Path,
    keep_inputs: bool,
    progress: Callable[[int], Callable[[int], object]] | None = None,
) -> CalibrationReport:
    """Send token windows through a checkpoint, layer by layer, and write a calibration folder.

    Args:
        source: folder of the checkpoint.
        text: the bytes that the windows were made from, for the record.
        windows: token ids of each sequence.
        output: folder to make; its parent exists.
        keep_inputs: also keep the experts' inputs, which error feedback needs.
        progress: called with the number of layers; what it returns, with 1 after each.

    Raises:
        EdgeLfmError: the checkpoint cannot be read, or the folder not be written.
    """
    with open_checkpoint(source) as checkpoint:
        shape = checkpoint.describe()
        weights = CheckpointWeights(checkpoint, shape, plan_tensors(shape, find_recipe(DEFAULT_RECIPE).schemes))
        collector = _Collector(output, keep_inputs)
        advance = progress(len(shape.layers)) if progress else lambda _n: None
        model = StreamedModel(shape, weights, collector)
        hidden = model.hidden(windows, advance)
        collector.matrix("lm_head.weight" if not shape.tied else "model.embed_tokens.weight", hidden)
        digest = hashlib.sha256(text).hexdigest()
        provenance = {
            "checkpoint": checkpoint.fingerprint(),
            "text_sha256": digest,
            "tokens": sum(len(w) for w in windows),
            "window": max(len(w) for w in windows),
            "inputs": keep_inputs and bool(shape.experts),
        }
    arrays: dict[str, F32] = {}
    for name, sums in collector.sums.items():
        arrays[f"squares/{name}"] = sums.mean
        if ".experts." in name:
            arrays[f"tokens/{name}"] = np.array([sums.weight], np.float32)
    if collector.choices:
        _save_forecast(shape, collector.choices, windows, output)
    _save(arrays, output / STATISTICS, {"provenance": json.dumps(provenance, sort_keys=True)})
    return _report(shape, collector, provenance)


def _save_forecast(shape: Shape, choices: dict[int, I64], windows: Sequence[NDArray[np.int64]], output: Path) -> None:
    """Fit which experts will be used again to what the text chose; paging evicts by it."""
    layers = sorted(choices)
    used = np.zeros((len(choices[layers[0]]), len(layers), shape.experts), bool)
    for row, n in enumerate(layers):
        np.put_along_axis(used[:, row], choices[n], True, axis=1)
    sequences = np.split(used, np.cumsum([len(w) for w in windows])[:-1])
    _save({"weights": fit_forecast(sequences).astype(np.float16)}, output / FORECAST_FILE)


def _report(shape: Shape, collector: _Collector, provenance: dict[str, Any]) -> CalibrationReport:
    routers = shape.routers.items()
    counts = {(n, e): collector.seen.get((n, e), 0) for n, router in routers for e in range(router.experts)}
    rare = tuple(f"layer {n} expert {e}: {c} tokens" for (n, e), c in counts.items() if c < FEW_TOKENS)
    fewest = min(counts.values(), default=0)
    return CalibrationReport(provenance["tokens"], provenance["text_sha256"], len(counts), rare, fewest)


def _save(arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str] | None = None) -> None:
    try:
        save_file(dict(arrays), path, metadata)
    except (OSError, SafetensorError) as error:  # a full disk is the latter
        raise OutputError(f"{path} cannot be written: {error}", hint="free some disk space") from None


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
    columns |= {_layer_name(name): count for name, count in columns.items()}
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


def _layer_name(name: str) -> str:
    """Where the statistics of all of a layer's experts together stand."""
    before, infix, after = name.partition(".experts.")
    return f"{before}.experts.all.{after.split('.', 1)[1]}" if infix else name


def _inputs_path(folder: Path, layer: int) -> Path:
    return folder / f"inputs-{layer}.safetensors"
