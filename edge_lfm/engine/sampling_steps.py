"""The steps that a sampler is made of: each changes logits, or says which tokens stay. Pure functions of NumPy arrays.

Logits are float64 [vocab] and are changed in place; `tokens` are ids, `probabilities` belong to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float64]
_DRY_POWERS = 50
"""Beyond, a token is out in any case, and repetitions are not followed: 2,000 equal tokens took half a second."""
_FIRST_GUESS = 1024
"""Tokens that are sorted for top-p before all are: at 65,536 a sort takes 4.9 ms, of the largest 1,024 0.2 ms."""
_GROUPS = 4
_SLACK = 1e-6
"""Far beyond what the exponential and its sum are rounded by."""


def add_bias(logits: Logits, bias: Mapping[int, float]) -> None:
    """OpenAI's logit_bias: added to the logits of the tokens named; ids beyond the vocabulary do nothing."""
    for token, value in bias.items():
        if 0 <= token < len(logits):
            logits[token] += value


def penalize_repetition(logits: Logits, tokens: NDArray[np.int64], penalty: float) -> None:
    """CTRL's repetition penalty (Keskar et al. 2019): logits of these tokens are divided if positive, else
    multiplied."""
    values = logits[tokens]
    logits[tokens] = np.where(values > 0, values / penalty, values * penalty)


def penalize_presence(logits: Logits, counts: NDArray[np.int64], presence: float, frequency: float) -> None:
    """OpenAI's penalties: `presence` off every token that the answer has, and `frequency` for each time it has it."""
    logits -= presence * (counts > 0) + frequency * counts


def penalize_sequences(
    logits: Logits, seen: Sequence[int], breakers: frozenset[int], multiplier: float, base: float, allowed: int
) -> None:
    """DRY (P. E. Weidmann, text-generation-webui PR 5677): a token that would extend a repetition is made less likely.

    If the last n tokens stood before, followed by t, and n >= allowed, t loses multiplier * base ** (n - allowed), with
    the longest such n. A repetition does not reach across a breaker.
    """
    if not seen or seen[-1] in breakers:
        return
    ids, most = np.asarray(seen, np.int64), allowed + _DRY_POWERS
    ends = np.flatnonzero(ids[:-1] == ids[-1])
    lengths = np.ones(len(ends), np.int64)
    longer = np.arange(len(ends))  # those of `ends` whose repetition is longer than n
    for n in range(1, min(most, len(ids))):
        if not len(longer) or int(ids[-1 - n]) in breakers:
            break
        before = ends[longer] - n
        longer = longer[(before >= 0) & (ids[before] == ids[-1 - n])]
        lengths[longer] = n + 1
    longest = np.zeros(max(len(logits), int(ids.max()) + 1), np.int64)
    np.maximum.at(longest, ids[ends + 1], lengths)
    tokens = np.flatnonzero(longest[: len(logits)] >= allowed)
    logits[tokens] -= multiplier * float(base) ** np.minimum(longest[tokens] - allowed, _DRY_POWERS)


def keep_top_k(logits: Logits, top_k: int) -> NDArray[np.int64]:
    """Ids of the k largest logits in rising order, of equal ones the lower ids; all if k is 0."""
    if not 0 < top_k < len(logits):
        return np.arange(len(logits))
    tokens = _candidates(logits, top_k)
    values = logits[tokens]
    least = np.partition(values, len(values) - top_k)[len(values) - top_k]
    above, equal = tokens[values > least], tokens[values == least]
    return np.sort(np.concatenate([above, equal[: top_k - len(above)]]))


def _candidates(logits: Logits, count: int) -> NDArray[np.int64]:
    """Ids in rising order that the `count` largest are among: all that reach the largest of `count` groups' maxima.

    Of 65,536, a partition takes eight times as long as finding them.
    """
    groups = _GROUPS * count
    width = len(logits) // groups
    if width < _GROUPS:
        return np.arange(len(logits))
    maxima = logits[: groups * width].reshape(groups, width).max(axis=1)
    return np.flatnonzero(logits >= np.partition(maxima, groups - count)[groups - count])


def keep_near(logits: Logits, min_p: float) -> NDArray[np.int64]:
    """Ids in rising order of all logits that `keep_min_p` may keep, before there are probabilities."""
    return np.flatnonzero(logits >= near_threshold(logits, min_p))


def near_threshold(logits: Logits, min_p: float) -> float:
    """The least logit that `keep_min_p` may keep."""
    return float(logits.max()) + math.log(min_p) - _SLACK


def keep_top_p(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Which of the tokens, in rising order: the fewest most likely ones whose sum reaches top_p (Holtzman et al.
    2020)."""
    if top_p >= 1:
        return np.arange(len(probabilities))
    for count in (_FIRST_GUESS, 8 * _FIRST_GUESS, len(probabilities)):
        first = keep_top_k(probabilities, count)
        order = first[np.argsort(-probabilities[first], kind="stable")]
        reached = np.cumsum(probabilities[order]) >= top_p
        if reached.any() or count >= len(probabilities):
            break
    return np.sort(order[: int(reached.argmax()) + 1 if reached.any() else len(order)])


def keep_min_p(probabilities: NDArray[np.float64], min_p: float) -> NDArray[np.int64]:
    """Which of the tokens are at least min_p times as likely as the most likely one (Nguyen et al. 2024)."""
    return np.flatnonzero(probabilities >= min_p * probabilities.max())


def keep_xtc(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """XTC (P. E. Weidmann, text-generation-webui PR 6335): of the tokens that reach the threshold, all but the least
    likely go; the others stay."""
    likely = np.flatnonzero(probabilities >= threshold)
    if len(likely) < 2:
        return np.arange(len(probabilities))
    spared = likely[np.argmin(probabilities[likely])]
    return np.setdiff1d(np.arange(len(probabilities)), likely[likely != spared], assume_unique=True)


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Probabilities of logits."""
    weights = np.exp(logits - logits.max())
    total: float = weights.sum()
    return np.asarray(weights / total)


def log_sum_exp(logits: Logits) -> float:
    """log(sum(exp(logits))), without overflow."""
    most = float(logits.max())
    return most + math.log(float(np.exp(logits - most).sum()))
