"""Choosing the next token: the steps of `sampling_steps.py` in a fixed order.

Order: padding rows cut off, what a grammar forbids, logit bias, repetition penalty, presence and frequency penalty,
DRY; then temperature 0 takes the largest logit; otherwise temperature, top-k, top-p, min-p, XTC, and a draw. Every
answer has a generator of its own: a seed gives the same text whatever else is running. Knows logits and ids, no text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from edge_lfm.checking import checked, checked_record
from edge_lfm.engine import sampling_steps as steps
from edge_lfm.engine.constraints import Constraint
from edge_lfm.engine.feeds import Contenders, Logits
from edge_lfm.errors import GrammarError, NumericalError, UsageError, about

MAX_BIASED = 4096
GREEDY_BELOW = 1e-6
"""A temperature below this takes the most likely token, as 0 does: a logit divided by it could overflow."""


class SamplingArguments(TypedDict, total=False):
    """The fields of `SamplingOptions` as keyword arguments. None, or left out: as the model's own files say."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repeat_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    xtc_probability: float | None
    xtc_threshold: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None


@checked_record
@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn. The defaults are greedy; a model's own come from its generation_config.json.

    temperature: 0, or less than 1e-6, takes the most likely token; otherwise logits are divided by it.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the fewest most likely tokens whose probabilities reach p.
    min_p: keep tokens at least min_p times as likely as the most likely one.
    repeat_penalty: logits of tokens seen before are divided (positive) or multiplied (negative) by it.
    presence_penalty, frequency_penalty: OpenAI's; off the logits of tokens in the answer, once, and for each time.
    dry_multiplier, dry_base, dry_allowed_length: DRY, against repeated sequences longer than allowed; 0 is off.
    xtc_probability, xtc_threshold: XTC, how often, and which tokens are likely; 0 is off.
    logit_bias: token id -> what is added to its logit.
    seed: of the draws; None takes a fresh one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high, whole) in _RANGES.items():
            value = getattr(self, name)
            if value is not None:
                with about(name):
                    _check(name, value, low, high, whole)
        if len(self.logit_bias) > MAX_BIASED:
            hint = f"give at most {MAX_BIASED}"
            raise UsageError("logit_bias has too many token ids", hint=hint, param="logit_bias")
        with about("logit_bias"):
            for token, value in self.logit_bias.items():
                _check("a token of logit_bias", token, 0, 1 << 31, whole=True)
                _check(f"logit_bias of token {token}", value, -100, 100)

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

    @checked
    def changed(self, **values: Unpack[SamplingArguments]) -> SamplingOptions:
        """These options with the values that are not None.

        Raises:
            UsageError: a name is unknown or a value is out of range.
        """
        given: Mapping[str, Any] = values
        return replace(self, **{name: value for name, value in given.items() if value is not None})


_RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 100, False),
    "top_k": (0, 1 << 24, True),
    "top_p": (1e-9, 1, False),
    "min_p": (0, 1, False),
    "repeat_penalty": (1e-3, 100, False),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
    "dry_multiplier": (0, 100, False),
    "dry_base": (1, 10, False),
    "dry_allowed_length": (1, 1000, True),
    "xtc_probability": (0, 1, False),
    "xtc_threshold": (1e-9, 1, False),
    "seed": (0, (1 << 64) - 1, True),
}


def _check(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or not math.isfinite(value):
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{name} is {_shown(value)}", hint=f"it must be {kind} of {low:g}..{high:g}")


def _shown(value: Any) -> str:
    return "a huge number" if isinstance(value, int) and abs(value) > 10**20 else f"{value!r:.60}"


class Sampler:
    """Draws the tokens of one answer.

    vocab: ids that the tokenizer has; logits beyond are padding. breakers: tokens that DRY does not reach across.
    constraint: the grammar that the answer must follow.
    """

    def __init__(
        self,
        options: SamplingOptions,
        vocab: int,
        prompt: Sequence[int] = (),
        breakers: Iterable[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self.options, self.vocab = options, vocab
        self.prompt_tokens = len(prompt)
        self.seen = list(prompt)
        self._constraint = constraint
        self._rng = np.random.default_rng(options.seed)
        self._breakers = frozenset(breakers)
        self._known = np.unique(np.array([i for i in prompt if 0 <= i < vocab], np.int64))
        self._counts = np.zeros(vocab, np.int64)
        self._mask: NDArray[np.bool_] | None = None
        self._asked_at = -1
        self._plain = not (
            options.repeat_penalty != 1.0
            or options.presence_penalty
            or options.frequency_penalty
            or options.dry_multiplier
            or options.logit_bias
        )

    @property
    def answer(self) -> list[int]:
        """The tokens drawn so far."""
        return self.seen[self.prompt_tokens :]

    def next(self, logits: NDArray[np.float32]) -> int:
        """Draw the next token from logits [rows], and note it.

        Raises:
            NumericalError: the logits hold NaN.
        """
        values = logits[: self.vocab]
        if np.isnan(values).any():
            raise NumericalError("the logits hold NaN", hint="check the model with edge-lfm verify")
        if (allowed := self._allowed()) is not None:
            values = np.where(allowed, values, -np.inf)
        token = self._choose(values)
        if self._constraint is not None and not np.isfinite(values[token]):
            raise GrammarError("the grammar allows no token", hint="simplify it")
        if self._constraint is not None:
            self._constraint.accept(token)
        self._note(token)
        return token

    def contenders(self) -> Contenders | None:
        """Which tokens the next draw may depend on (`feeds.Contenders`); None: on all of them.

        All that changes logits keeps the order of two values of one token, so bounds stay bounds.

        Raises:
            GrammarError: as the constraint does.
        """
        o = self.options
        greedy = o.temperature < GREEDY_BELOW
        near = o.min_p > 0 and o.top_p >= 1
        if not (greedy or near or 0 < o.top_k < self.vocab):
            return None
        allowed = self._allowed()

        def may_matter(least: Logits, most: Logits) -> NDArray[np.int64]:
            low = self._weighed(least, allowed)
            high = low if most is least else self._weighed(most, allowed)
            if greedy:
                threshold = low.max()
            elif near:
                threshold = steps.near_threshold(low, o.min_p)
            else:
                threshold = low[steps.keep_top_k(low, o.top_k)].min()
            return np.flatnonzero((high >= threshold) & (high > -np.inf))

        return may_matter

    def _weighed(self, logits: Logits, allowed: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Logits [vocab] as `next` draws from them."""
        o, plain = self.options, logits[: self.vocab]
        if self._plain and allowed is None and o.temperature < GREEDY_BELOW:
            return plain
        values = plain.astype(np.float64)
        if allowed is not None:
            values[~allowed] = -np.inf
        if not self._plain:
            self._penalize(values)
        return values if o.temperature < GREEDY_BELOW else values / o.temperature

    def _allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens the constraint lets come next, asked once for each; None: any."""
        if self._constraint is None:
            return None
        if self._asked_at != len(self.seen):
            self._mask, self._asked_at = self._constraint.allowed(), len(self.seen)
        return self._mask

    def forced(self, limit: int) -> list[int]:
        """The tokens that the grammar leaves no choice about, at most `limit`; they are noted as drawn."""
        tokens = self._constraint.forced(limit) if self._constraint is not None and limit > 0 else []
        for token in tokens:
            self._note(token)
        return tokens

    @property
    def ended(self) -> bool:
        """Whether the grammar says that the answer is complete."""
        return self._constraint is not None and self._constraint.ended

    def _note(self, token: int) -> None:
        self.seen.append(token)
        self._counts[token] += 1
        if self._counts[token] == 1 and self.options.repeat_penalty != 1.0:
            self._known = np.union1d(self._known, [token])

    def _choose(self, logits: NDArray[np.float32]) -> int:
        o = self.options
        greedy = o.temperature < GREEDY_BELOW
        if self._plain and greedy:
            return int(logits.argmax())
        values = logits.astype(np.float64)
        if not self._plain:
            self._penalize(values)
        if greedy:
            return int(values.argmax())
        return self._draw(values / o.temperature)

    def _penalize(self, values: NDArray[np.float64]) -> None:
        o = self.options
        steps.add_bias(values, o.logit_bias)
        if o.repeat_penalty != 1.0 and len(self._known):
            steps.penalize_repetition(values, self._known, o.repeat_penalty)
        if o.presence_penalty or o.frequency_penalty:
            steps.penalize_presence(values, self._counts, o.presence_penalty, o.frequency_penalty)
        if o.dry_multiplier:
            dry = (o.dry_multiplier, o.dry_base, o.dry_allowed_length)
            steps.penalize_sequences(values, self.seen, self._breakers, *dry)

    def _draw(self, logits: NDArray[np.float64]) -> int:
        """Truncate, then draw: the first token, by id, at which the running sum passes a uniform number."""
        o = self.options
        if o.min_p > 0 and o.top_p >= 1:  # most tokens are out before there are probabilities
            near = steps.keep_near(logits, o.min_p)
            tokens = near[steps.keep_top_k(logits[near], o.top_k)]
        else:
            tokens = steps.keep_top_k(logits, o.top_k)
        probabilities = steps.softmax(logits[tokens])
        if o.top_p < 1:
            tokens, probabilities = _keep(steps.keep_top_p(probabilities, o.top_p), tokens, probabilities)
        if o.min_p > 0:
            tokens, probabilities = _keep(steps.keep_min_p(probabilities, o.min_p), tokens, probabilities)
        if o.xtc_probability > 0 and self._rng.random() < o.xtc_probability:
            tokens, probabilities = _keep(steps.keep_xtc(probabilities, o.xtc_threshold), tokens, probabilities)
        if self._constraint is not None:  # a forbidden token is in no set that a draw may end in
            tokens, probabilities = _keep(np.flatnonzero(probabilities > 0), tokens, probabilities)
        cumulative = np.cumsum(probabilities)
        at = np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right")
        return int(tokens[min(int(at), len(tokens) - 1)])


def _keep(
    stays: NDArray[np.int64], tokens: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    kept = probabilities[stays]
    return tokens[stays], kept / kept.sum()


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural-log probability of a token, before any sampling option, and of the most likely ones: (id, value)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: NDArray[np.float32], vocab: int, token_id: int, top: int) -> TokenLogprobs:
    """The log probabilities of one token and of the `top` most likely ones, from logits [rows]."""
    values = logits[:vocab].astype(np.float64)
    values -= steps.log_sum_exp(values)
    best = steps.keep_top_k(values, top) if top else np.zeros(0, np.int64)
    best = best[np.argsort(-values[best], kind="stable")]
    return TokenLogprobs(token_id, float(values[token_id]), tuple((int(i), float(values[i])) for i in best))
