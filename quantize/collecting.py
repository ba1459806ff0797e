"""Making a calibration: text goes through a checkpoint layer by layer, and what its matrices get to see is added up.

A layer's weights are in memory at a time, and a part of the text; hidden states wait in a file. A layer that was
finished is in the journal: a killed run goes on with the next one, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors import safe_open

from edge_lfm.formats.checkpoint import HubCheckpoint
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.memory.policy import FORECAST_FILE
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import head_name, plan_tensors
from edge_lfm.model.streamed import StreamedModel
from edge_lfm.quantize.calibration import STATISTICS
from edge_lfm.quantize.forecast import fit_forecast
from edge_lfm.quantize.journal import Journal, Unit
from edge_lfm.quantize.observed import HEAD, InputsFile, Observed, inputs_path, layer_path, save, writing
from edge_lfm.quantize.output import JOURNAL
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.shape import Shape

FEW_TOKENS = 64
"""Experts that saw fewer tokens are reported."""
_PART_TOKENS = 8192
"""Tokens that go through a layer together: 1.6 GB for the 24B, whose experts are read once for each part."""
Windows = Sequence[NDArray[np.int64]]


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
    windows: Windows,
    output: Path,
    keep_inputs: bool,
    progress: Callable[[int], Callable[[int], object]] | None = None,
) -> CalibrationReport:
    """Send token windows through a checkpoint, layer by layer, and write a calibration folder.

    Args:
        source: folder of the checkpoint.
        text: the bytes that the windows were made from, for the record.
        windows: token ids of each sequence.
        output: folder to write into; what an earlier run with the same arguments finished there is kept.
        keep_inputs: also keep the experts' inputs, which error feedback needs.
        progress: called with the number of tokens times layers; what it returns, with the tokens of each part.

    Raises:
        EdgeLfmError: the checkpoint cannot be read, the folder not be written, or holds another run.
    """
    with open_checkpoint(source) as checkpoint:
        shape = checkpoint.describe()
        provenance = {
            "checkpoint": checkpoint.fingerprint(),
            "text_sha256": hashlib.sha256(text).hexdigest(),
            "tokens": sum(len(w) for w in windows),
            "window": max(len(w) for w in windows),
            "inputs": keep_inputs and bool(shape.experts),
            "moments": True,
        }
        with Journal(output / JOURNAL, _fingerprint(provenance, windows)) as journal:
            run = _Run(checkpoint, shape, windows, output, keep_inputs, journal)
            run.all_layers(progress)
        arrays, choices = _merged(shape, output)
        if choices:
            _save_forecast(shape, choices, windows, output)
        save(arrays, output / STATISTICS, {"provenance": json.dumps(provenance, sort_keys=True)})
        run.clean_up()
        (output / JOURNAL).unlink()
    return _report(shape, choices, provenance)


class _Run:
    """The layers of a calibration, each from the hidden states before it to those after it."""

    def __init__(
        self,
        checkpoint: HubCheckpoint,
        shape: Shape,
        windows: Windows,
        output: Path,
        keep_inputs: bool,
        journal: Journal,
    ) -> None:
        weights = CheckpointWeights(checkpoint, shape, plan_tensors(shape, find_recipe(DEFAULT_RECIPE).schemes))
        self.model, self.shape, self.windows = StreamedModel(shape, weights), shape, windows
        self.output, self.keep_inputs, self.journal = output, keep_inputs, journal
        self.tokens = sum(len(w) for w in windows)

    def all_layers(self, progress: Callable[[int], Callable[[int], object]] | None) -> None:
        layers = range(len(self.shape.layers))
        done = self._finished_layers()
        advance = progress(self.tokens * len(layers)) if progress else lambda _tokens: None
        advance(self.tokens * done)
        for n in layers[done:]:
            self._layer(n, advance)
        observed = Observed()
        for part, _ in self._hidden(len(layers)):
            observed.matrix(head_name(self.shape), self.model.normed(part))
        observed.save(layer_path(self.output, HEAD))

    def clean_up(self) -> None:
        """Remove what only an interrupted run needs."""
        for n in range(len(self.shape.layers) + 1):
            self._hidden_path(n).unlink(missing_ok=True)

    def _layer(self, n: int, advance: Callable[[int], object]) -> None:
        router, keep = self.shape.layers[n].ffn.router, None
        if router is not None and self.keep_inputs:
            path = inputs_path(self.output, n)
            keep = InputsFile(path, self.tokens, self.shape.hidden, router.experts, router.top_k)
        self.model.observer = observed = Observed(keep)
        after = self._hidden_path(n + 1)
        with writing(after), after.open("wb") as file:
            for h, lengths in self._hidden(n):
                self.model.layer(n, h, lengths)
                file.write(np.ascontiguousarray(h).data)
                advance(len(h))
        observed.save(layer_path(self.output, n))
        self.journal.note(Unit(n, self._checksum(n) or 0, 0.0, 0.0, ()))
        self.journal.sync()
        self._hidden_path(n).unlink(missing_ok=True)

    def _hidden(self, n: int) -> Iterator[tuple[F32, list[int]]]:
        """The hidden states before layer n, part by part, each with the lengths of its windows."""
        known = None
        if n:
            known = np.memmap(self._hidden_path(n), np.float32, "r", shape=(self.tokens, self.shape.hidden))
        at = 0
        for part in _parts(self.windows):
            lengths = [len(w) for w in part]
            yield self.model.embedded(part) if known is None else np.array(known[at : at + sum(lengths)]), lengths
            at += sum(lengths)

    def _hidden_path(self, n: int) -> Path:
        return self.output / f"hidden-{n}.f32"

    def _finished_layers(self) -> int:
        """How many layers an earlier run finished; none, if the hidden states after them are not there any more."""
        done = 0
        while (unit := self.journal.units.get(done)) is not None and unit.checksum == self._checksum(done):
            done += 1
        states = self._hidden_path(done)
        whole = states.exists() and states.stat().st_size == 4 * self.tokens * self.shape.hidden
        return done if whole else 0

    def _checksum(self, n: int) -> int | None:
        path = layer_path(self.output, n)
        return xxhash.xxh3_64_intdigest(path.read_bytes()) if path.exists() else None


def _parts(windows: Windows) -> Iterator[Windows]:
    """Windows of about `_PART_TOKENS` tokens, at least one."""
    bounds = np.cumsum([0, *(len(w) for w in windows)])
    first = 0
    while first < len(windows):
        last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + _PART_TOKENS, side="right")) - 1)
        yield windows[first:last]
        first = last


def _fingerprint(provenance: dict[str, Any], windows: Windows) -> str:
    digest = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode())
    for window in windows:
        digest.update(np.ascontiguousarray(window, np.int64).tobytes() + b"|")
    return digest.hexdigest()


def _merged(shape: Shape, output: Path) -> tuple[dict[str, F32], dict[int, NDArray[Any]]]:
    """The sums of all layers, and what the tokens of each layer chose."""
    arrays: dict[str, F32] = {}
    choices: dict[int, NDArray[Any]] = {}
    for n in (*range(len(shape.layers)), HEAD):
        with safe_open(layer_path(output, n), "numpy") as file:
            names = [name for name in file.keys() if name.startswith(("squares/", "tokens/"))]  # noqa: SIM118
            arrays |= {name: file.get_tensor(name) for name in names}
            if n in shape.routers:
                choices[int(n)] = file.get_tensor("chosen").astype(np.int64)
    return arrays, choices


def _save_forecast(shape: Shape, choices: dict[int, NDArray[Any]], windows: Windows, output: Path) -> None:
    """Fit which experts will be used again to what the text chose; paging evicts by it."""
    layers = sorted(choices)
    used = np.zeros((len(choices[layers[0]]), len(layers), shape.experts), bool)
    for row, n in enumerate(layers):
        np.put_along_axis(used[:, row], choices[n], True, axis=1)
    sequences = np.split(used, np.cumsum([len(w) for w in windows])[:-1])
    save({"weights": fit_forecast(sequences).astype(np.float16)}, output / FORECAST_FILE)


def _report(shape: Shape, choices: dict[int, NDArray[Any]], provenance: dict[str, Any]) -> CalibrationReport:
    counts = {n: np.bincount(choices[n].ravel(), minlength=router.experts) for n, router in shape.routers.items()}
    rare = tuple(
        f"layer {n} expert {e}: {c} tokens" for n, seen in counts.items() for e, c in enumerate(seen) if c < FEW_TOKENS
    )
    fewest = min((int(seen.min()) for seen in counts.values()), default=0)
    experts = sum(len(seen) for seen in counts.values())
    return CalibrationReport(provenance["tokens"], provenance["text_sha256"], experts, rare, fewest)
