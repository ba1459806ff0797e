"""Packing matrices by their output error, with what a calibration knows of their inputs.

Matrices that every token passes are rounded by the second moments of their inputs. An expert is rounded by the inputs
that it saw itself, and its second matrix by what the first two, rounded already, make of them. How far that can be
trusted depends on how many tokens an expert saw: a tenth of them is held out to judge each of its matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.kernels.spec.schemes import Scheme
from edge_lfm.kernels.spec.tiles import definition, pack_tiles
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import EXPERT_CLASS, PackedTensor
from edge_lfm.model.streamed import biases_of, gate
from edge_lfm.quantize.calibration import Calibration
from edge_lfm.quantize.moments import input_name, moments_of, moments_shape
from edge_lfm.quantize.pack import ErrorSum, Packed, encode, floats, pack_tensor
from edge_lfm.quantize.recipe import Recipe
from edge_lfm.quantize.rounding import ROWS_AT_A_TIME, Curvature, curvatures_of, round_by_output

HELD_OUT, MAX_JUDGES = 10, 512
"""One token of so many judges, and no more than that judge: an expert of the 24B saw 16,384 of 262,144 tokens, and a
tenth of them took a tenth of its time."""
LEAST_TOKENS = 1.0
"""Tokens per column without which searched weights stay as they are."""
SECOND_PRODUCTS, SECOND_TOKENS = 14_500_000_000, 3
"""Multiplications of a pass over the tokens that an expert's w2 is rounded by, at most; but as many tokens per column
of it in any case. The 24B has 4,609 of 16,384 tokens so: what w1 and w3 make of them, exact and rounded, took a third
of an expert's time. With 8 tokens per column of w1, three per column of w2 were no worse than eleven for `compact`,
and 2 % for `tiny` (docs/quality.md)."""
_TOKENS_AT_A_TIME = 4096


@dataclass(frozen=True)
class FeedbackPacker:
    """Packs tensors with error feedback where the calibration knows enough for it."""

    weights: CheckpointWeights
    recipe: Recipe
    kernels: Kernels
    calibration: Calibration

    def pack(self, tensor: PackedTensor) -> tuple[Packed, tuple[bool, ...]]:
        """The packed tensor, and for each of its matrices that could be fed back, whether that was kept."""
        importance = self.calibration.importance_of(tensor)
        own = tensor.kind == EXPERT_CLASS and self.calibration.has_inputs
        feedback = (_Expert if own else _Trunk)(self, tensor, importance)
        packed = pack_tensor(tensor, self.weights, self.recipe, self.kernels, importance, feedback.encode)
        return packed, tuple(feedback.kept)


@dataclass
class _Feedback:
    """Encodes the sources of one tensor, in turn."""

    packer: FeedbackPacker
    tensor: PackedTensor
    importance: Mapping[str, F32]
    kept: list[bool] = field(default_factory=list)

    def searched(self, name: str, values: NDArray[Any], scheme: Scheme) -> tuple[NDArray[np.uint8], ErrorSum]:
        return encode(values, scheme, self.packer.kernels, importance=self.importance.get(name))

    def stored(self, name: str, w: F32, scheme: Scheme) -> Any:
        """Weights [N, K] searched and rounded, as the scheme's family keeps them."""
        packed, _ = self.searched(name, w, scheme)
        return definition(scheme).unpack(packed, scheme, *w.shape)


class _Trunk(_Feedback):
    """A tensor whose matrices every token passes."""

    _of: tuple[str, tuple[Curvature, ...]] = ("", ())

    def encode(self, name: str, values: NDArray[Any], scheme: Scheme) -> tuple[NDArray[np.uint8], ErrorSum]:
        curvatures = self._curvatures(name, values.shape[1]) if can_feed_back(scheme) else ()
        if not curvatures:
            return self.searched(name, values, scheme)
        parts, total = [], ErrorSum()
        for first in range(0, len(values), ROWS_AT_A_TIME):
            w = floats(values[first : first + ROWS_AT_A_TIME])
            fed = round_by_output(w, self.stored(name, w, scheme), scheme, curvatures, self.packer.kernels)
            lost = _error(fed, w)
            total.add(lost.error, lost.signal)
            parts.append(pack_tiles(fed, scheme))
        self.kept.append(True)
        return np.concatenate(parts), total

    def _curvatures(self, name: str, columns: int) -> tuple[Curvature, ...]:
        """Of the matrix's inputs; those of the one before, if they are the same."""
        if self._of[0] != input_name(name):
            calibration = self.packer.calibration
            tokens = calibration.provenance["tokens"]
            moments = calibration.moments_of(name, self.tensor.layer, columns)
            known = () if moments is None or tokens < LEAST_TOKENS * moments.shape[-1] else (moments,)
            self._of = (input_name(name), tuple(c for m in known for c in curvatures_of(m, tokens)))
        return self._of[1]


class _Expert(_Feedback):
    """An expert whose inputs were kept: w1 and w3, then w2."""

    def encode(self, name: str, values: NDArray[Any], scheme: Scheme) -> tuple[NDArray[np.uint8], ErrorSum]:
        w, is_second = floats(values), ".w2." in name
        if not can_feed_back(scheme) or self._seen[0].count < LEAST_TOKENS * w.shape[1]:
            return self.searched(name, values, scheme)
        coded = self.stored(name, w, scheme)
        if is_second:
            target, curvatures = self._second(w)
            fed = round_by_output(target, self.stored(name, target, scheme), scheme, curvatures, self.packer.kernels)
        else:
            fed = round_by_output(w, coded, scheme, self._first, self.packer.kernels)
        error = self._second_error if is_second else self._first_error
        kept = error(w, fed.values()) < error(w, coded.values())
        self.kept.append(kept)
        chosen = fed if kept else coded
        self._rounded[name] = chosen.values()
        return pack_tiles(chosen, scheme), _error(chosen, w)

    @cached_property
    def _rounded(self) -> dict[str, F32]:
        return {}

    @cached_property
    def _seen(self) -> tuple[Tokens, Tokens]:
        """The tokens to round by, and those that judge."""
        assert self.tensor.layer is not None
        expert = int(self.tensor.name.rpartition(".")[2])
        seen = self.packer.calibration.inputs_of(self.tensor.layer, expert)
        every = judge_every(len(seen.x))
        judge = np.arange(len(seen.x)) % every == every - 1
        return Tokens(seen.x[~judge], seen.weight[~judge]), Tokens(seen.x[judge], seen.weight[judge])

    @cached_property
    def _first(self) -> tuple[Curvature, ...]:
        """Of the inputs of w1 and w3."""
        fit = self._seen[0]
        moments = np.zeros(moments_shape(fit.x.shape[1]), np.float32)
        for x, weight in fit.parts():
            moments += moments_of(x * weight)
        return curvatures_of(moments, fit.count)

    def _second(self, w: F32) -> tuple[F32, tuple[Curvature, ...]]:
        """The weights w2 that make up for the rounding of w1 and w3, and the moments of what these give."""
        fit = self._seen[0].at_most(max_second_tokens(w.shape))
        moments = np.zeros(moments_shape(w.shape[1]), np.float32)
        missing = np.zeros_like(moments)
        for exact, rounded in self._gated(fit):
            moments += moments_of(rounded)
            missing += moments_of(exact - rounded, rounded)
        curvatures, target = curvatures_of(moments, fit.count), w.copy()
        for part, of_part in zip(curvatures, missing, strict=True):
            target[:, part.columns] += part.solved(w[:, part.columns] @ of_part)
        return target, curvatures

    def _gated(self, tokens: Tokens) -> Iterator[tuple[F32, F32]]:
        """The inputs of w2, by exact and by rounded weights, times the tokens' weights; part by part."""
        w1, w3 = (source.name for source in self.tensor.matrices[0].sources)
        assert self.tensor.layer is not None
        ffn = self.packer.weights.shape.layers[self.tensor.layer].ffn
        biases = biases_of(self.packer.weights, w1.removesuffix(".w1.weight"), ffn)
        exact = [self.packer.weights(name) for name in (w1, w3)]
        rounded = [self._rounded.get(name, w) for name, w in zip((w1, w3), exact, strict=True)]
        for x, weight in tokens.parts():
            yield gate(ffn, biases, x, *exact) * weight, gate(ffn, biases, x, *rounded) * weight

    def _first_error(self, w: F32, rounded: F32) -> float:
        return sum(float(np.square(x * weight @ (rounded - w).T).sum()) for x, weight in self._seen[1].parts())

    def _second_error(self, w: F32, rounded: F32) -> float:
        return sum(float(np.square(new @ rounded.T - old @ w.T).sum()) for old, new in self._judged)

    @cached_property
    def _judged(self) -> list[tuple[F32, F32]]:
        """What judges w2; w1 and w3 are rounded by then."""
        return list(self._gated(self._seen[1]))


@dataclass(frozen=True)
class Tokens:
    """Inputs of an expert, float16 [t, H], and their routing weights [t]."""

    x: NDArray[np.float16]
    weight: F32

    @property
    def count(self) -> int:
        return len(self.x)

    def at_most(self, count: int) -> Tokens:
        """As many of them, an equal distance apart."""
        kept = np.arange(min(count, self.count)) * self.count // min(count, self.count)
        return Tokens(self.x[kept], self.weight[kept])

    def parts(self) -> Iterator[tuple[F32, F32]]:
        """float32 [n, H] and [n, 1], some tokens at a time."""
        for first in range(0, self.count, _TOKENS_AT_A_TIME):
            part = slice(first, first + _TOKENS_AT_A_TIME)
            yield self.x[part].astype(np.float32), self.weight[part, None]


def judge_every(count: int) -> int:
    """Of `count` tokens, which judge: one of so many."""
    return max(HELD_OUT, -(-count // MAX_JUDGES))


def max_second_tokens(shape: Sequence[int]) -> int:
    """Tokens that a w2 [H, I] is rounded by, at most."""
    return max(SECOND_TOKENS * shape[1], SECOND_PRODUCTS // (shape[0] * shape[1]))


def can_feed_back(scheme: Scheme) -> bool:
    """Whether weights of a scheme have levels to choose among."""
    return hasattr(definition(scheme), "lattice")


def _error(stored: Any, w: F32) -> ErrorSum:
    difference = stored.values() - w
    return ErrorSum(float(np.vdot(difference, difference)), float(np.vdot(w, w)))
