"""Rounding experts by their output error: GPTQ, kept only where it helps on tokens that it did not see.

Every weight is rounded in turn, and its error is made up for by the weights not yet rounded (Frantar et al. 2023,
arXiv 2210.17323; damping and activation order after IST-DASLab/MoE-Quant). Scales stay those of the search. Which
damping is safe depends on how many tokens an expert saw: with too few, plain search
is better, and a tenth of the tokens is held out to judge each matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.spec.definitions.codebook import Coded, nearest, unpack
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.kernels.spec.schemes import SCHEMES, Codebook, Scheme
from edge_lfm.kernels.spec.tiles import pack_tiles
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import PackedTensor
from edge_lfm.model.streamed import gate
from edge_lfm.quantize.calibration import Calibration
from edge_lfm.quantize.pack import ErrorSum, NotFiniteError, Packed, encode, interleave, pack_tensor
from edge_lfm.quantize.recipe import Recipe

HELD_OUT = 10
"""One token of so many judges."""
_COLUMNS = 128
"""Columns whose errors are spread over the rest together."""


@dataclass(frozen=True)
class FeedbackPacker:
    """Packs experts of codebook schemes with error feedback."""

    weights: CheckpointWeights
    recipe: Recipe
    kernels: Kernels
    calibration: Calibration

    def pack(self, tensor: PackedTensor) -> tuple[Packed, tuple[bool, ...]]:
        """The packed expert, and for each of its matrices whether feedback was kept."""
        scheme = SCHEMES[tensor.scheme]
        importance = self.calibration.importance_of(tensor)
        searched = pack_tensor(tensor, self.weights, self.recipe, self.kernels, importance)
        expert = int(tensor.name.rpartition(".")[2])
        assert tensor.layer is not None
        seen = self.calibration.inputs_of(tensor.layer, expert)
        if not isinstance(scheme.grid, Codebook) or len(seen.x) < HELD_OUT:
            return searched, ()
        w1, w3, w2 = (self.weights(source.name) for source in tensor.sources)
        inputs = (seen.x, seen.x, gate(seen.x, w1, w3))
        parts, kept, total = [], [], ErrorSum()
        for source, w, x in zip(tensor.sources, (w1, w3, w2), inputs, strict=True):
            coded = self._searched(w, scheme, importance.get(source.name))
            better = with_feedback(w, coded, x, np.square(seen.weight))
            kept.append(better is not None)
            stored = better or coded
            difference = stored.quantized().values() - w
            total.add(float(np.vdot(difference, difference)), float(np.vdot(w, w)))
            parts.append(pack_tiles(stored, scheme))
        cols = tensor.matrices[0].cols
        data = np.concatenate([interleave(parts[:2], scheme, cols), parts[2]])
        return Packed(data, total, searched.sources), tuple(kept)

    def _searched(self, w: F32, scheme: Scheme, importance: F32 | None) -> Coded:
        try:
            packed, _ = encode(w, scheme, self.kernels, importance=importance)
        except NotFiniteError:
            raise AssertionError("weights were checked before") from None
        return unpack(packed, scheme, *w.shape)


def with_feedback(w: F32, coded: Coded, x: F32, power: F32) -> Coded | None:
    """`coded` rounded anew with error feedback, or None where that does not lower the error of held-out outputs.

    Args:
        w: weights [N, K].
        coded: the same, searched and rounded.
        x: inputs [t, K].
        power: weight of each token's squared error, [t].
    """
    judge = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    tokens_per_column = float((~judge).sum()) / w.shape[1]
    if tokens_per_column < 1:
        return None
    seen = x[~judge] * np.sqrt(power[~judge])[:, None]
    fed = _round_in_turn(w, coded, seen.T @ seen, 0.1 if tokens_per_column >= 4 else 1.0)
    before, after = (_output_error(w, c, x[judge], power[judge]) for c in (coded, fed))
    return fed if after < before else None


def _output_error(w: F32, coded: Coded, x: F32, power: F32) -> float:
    out = x @ (coded.quantized().values() - w).T
    return float(np.einsum("t,tn,tn->", power, out, out))


def _round_in_turn(w: F32, coded: Coded, hessian: F32, damping: float) -> Coded:
    """GPTQ on fixed scales; columns in falling order of their inputs' energy."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    scale, shift = (np.repeat(x, coded.block, axis=1)[:, order] for x in (coded.quantized().scale, coded.shift()))
    spread = _inverse_factor(hessian[np.ix_(order, order)], damping)
    left, index = w[:, order].copy(), np.empty(w.shape, np.uint8)
    for first in range(0, w.shape[1], _COLUMNS):
        last = min(first + _COLUMNS, w.shape[1])
        errors = np.empty((len(w), last - first), np.float32)
        for k in range(first, last):
            index[:, k], rounded = _round(left[:, k], scale[:, k], shift[:, k], coded.grid)
            errors[:, k - first] = (left[:, k] - rounded) / spread[k, k]
            left[:, k + 1 : last] -= errors[:, k - first, None] * spread[k, k + 1 : last]
        left[:, last:] -= errors @ spread[first:last, last:]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return replace(coded, index=index[:, back])


def _round(x: F32, scale: F32, shift: F32, grid: Codebook) -> tuple[NDArray[np.uint8], F32]:
    """The nearest codebook entries of a column, and their values."""
    usable = scale != 0
    t = np.where(usable, x / np.where(usable, scale, np.float32(1)), np.float32(0)) - shift
    index = nearest(t, grid).astype(np.uint8)
    return index, (np.array(grid.levels, np.float32)[index] + shift) * scale


def _inverse_factor(hessian: F32, damping: float) -> F32:
    """The upper factor U of the damped inverse, H**-1 = U.T U (float64 inside)."""
    h = hessian.astype(np.float64)
    h[np.diag_indices_from(h)] += damping * max(float(np.mean(np.diag(h))), 1e-30)
    return np.linalg.cholesky(np.linalg.inv(h)).T.astype(np.float32)
