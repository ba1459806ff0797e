"""Choosing the next token: small steps in a fixed order, each with its definition.

Order: padding rows masked, repetition penalty, then temperature 0 takes the largest; otherwise
temperature, top-k, top-p, min-p, and a draw. Knows logits, no text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import NumericalError, UsageError


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn. The defaults are greedy; a model's own come from its generation_config.json.

    temperature: 0 takes the most likely token; otherwise logits are divided by it.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the fewest most likely tokens whose probabilities reach p.
    min_p: keep tokens at least min_p times as likely as the most likely one.
    repeat_penalty: logits of tokens seen before are divided (positive) or multiplied (negative) by it.
    seed: of the draws; None takes a fresh one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, 100)
        _check("top_k", self.top_k, 0, 1 << 24, whole=True)
        _check("top_p", self.top_p, 1e-9, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("repeat_penalty", self.repeat_penalty, 1e-3, 100)
        if self.seed is not None:
            _check("seed", self.seed, 0, (1 << 64) - 1, whole=True)

    @classmethod
    def from_generation_config(cls, raw: Mapping[str, Any]) -> SamplingOptions:
        """The defaults that a model's generation_config.json states.

        Raises:
            UsageError: a value is out of range.
        """
        if raw.get("do_sample") is False:
            return cls()
        names = {
            "temperature": "temperature",
            "top_k": "top_k",
            "top_p": "top_p",
            "min_p": "min_p",
            "repeat_penalty": "repetition_penalty",
        }
        return cls(**{ours: raw[theirs] for ours, theirs in names.items() if raw.get(theirs) is not None})

    def changed(self, **values: Any) -> SamplingOptions:
        """These options with the values that are not None.

        Raises:
            UsageError: a name is unknown or a value is out of range.
        """
        known = {f.name for f in fields(self)}
        for name in values:
            if name not in known:
                raise UsageError(f"unknown sampling option '{name}'", hint=f"known are {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in values.items() if value is not None})


def _check(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{name} is {value!r}", hint=f"it must be {kind} of {low:g}..{high:g}")


class Sampler:
    """Draws tokens for one answer. `vocab`: ids that the tokenizer has; logits beyond are padding."""

    def __init__(self, options: SamplingOptions, vocab: int) -> None:
        self.options, self.vocab = options, vocab
        self._rng = np.random.default_rng(options.seed)

    def next(self, logits: NDArray[np.float32], seen: Sequence[int]) -> int:
        """The next token id, from logits [rows] and the ids before it.

        Raises:
            NumericalError: the logits hold NaN.
        """
        values: NDArray[np.float64] = logits[: self.vocab].astype(np.float64)
        if np.isnan(values).any():
            raise NumericalError("the logits hold NaN", hint="check the model with edge-lfm inspect --verify")
        if self.options.repeat_penalty != 1.0 and len(seen):
            penalize(values, seen, self.options.repeat_penalty)
        if self.options.temperature == 0:
            return int(values.argmax())
        return self._draw(values / self.options.temperature)

    def _draw(self, logits: NDArray[np.float64]) -> int:
        options = self.options
        order = most_likely(logits, options.top_k)
        weights = np.exp(logits[order] - logits[order[0]])
        probabilities = weights / weights.sum()
        count = keep_top_p(probabilities, options.top_p)
        count = min(count, max(1, int((probabilities >= options.min_p * probabilities[0]).sum())))
        cumulative = np.cumsum(probabilities[:count])
        return int(order[np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right")])


def penalize(logits: NDArray[np.float64], seen: Sequence[int], penalty: float) -> None:
    """Repetition penalty of CTRL: seen tokens' logits are divided if positive, multiplied if not. In place."""
    ids = np.unique(np.asarray(seen, np.int64))
    ids = ids[ids < len(logits)]
    values = logits[ids]
    logits[ids] = np.where(values > 0, values / penalty, values * penalty)


def most_likely(logits: NDArray[np.float64], top_k: int) -> NDArray[np.int64]:
    """Ids by falling logit, ties to the lower id; the first top_k of them, or all."""
    if 0 < top_k < len(logits):
        kept = np.sort(np.argpartition(-logits, top_k - 1)[:top_k])
        return kept[np.argsort(-logits[kept], kind="stable")]
    return np.argsort(-logits, kind="stable")


def keep_top_p(probabilities: NDArray[np.float64], top_p: float) -> int:
    """How many of falling probabilities are the fewest whose sum reaches top_p."""
    return min(len(probabilities), int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1)
