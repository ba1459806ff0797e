"""Each sampling step against its definition, and the options' limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_lfm.engine.sampling import Sampler, SamplingOptions, keep_top_p, most_likely, penalize
from edge_lfm.errors import NumericalError, UsageError

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal(50).astype(np.float32)


def draws(options: SamplingOptions, logits: np.ndarray, count: int = 4000, vocab: int | None = None) -> np.ndarray:
    sampler = Sampler(options, vocab or len(logits))
    return np.bincount([sampler.next(logits, []) for _ in range(count)], minlength=len(logits)) / count


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def test_greedy_takes_the_largest_and_the_lower_of_equals() -> None:
    assert Sampler(SamplingOptions(), 50).next(LOGITS, []) == LOGITS.argmax()
    assert Sampler(SamplingOptions(), 4).next(np.array([1, 3, 3, 0], np.float32), []) == 1


def test_padding_rows_are_never_drawn() -> None:
    logits = np.array([0, 1, 2, 100], np.float32)
    assert Sampler(SamplingOptions(), 3).next(logits, []) == 2
    assert draws(SamplingOptions(temperature=5, seed=1), logits, vocab=3)[3] == 0


def test_temperature_draws_from_the_softmax() -> None:
    for temperature in (0.5, 1.0, 2.0):
        found = draws(SamplingOptions(temperature=temperature, seed=3), LOGITS, 20000)
        expected = softmax(LOGITS.astype(np.float64) / temperature)
        # Each count is binomial: 5 standard deviations.
        assert (np.abs(found - expected) < 5 * np.sqrt(expected / 20000) + 1e-3).all()


def test_top_k() -> None:
    found = draws(SamplingOptions(temperature=1, top_k=3, seed=1), LOGITS)
    best = np.argsort(-LOGITS)[:3]
    assert set(np.nonzero(found)[0]) == set(best)
    assert list(most_likely(np.array([1.0, 2, 2, 0]), 2)) == [1, 2]
    assert list(most_likely(np.array([1.0, 2, 2, 0]), 0)) == [1, 2, 0, 3]


@pytest.mark.parametrize(("p", "count"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_p(p: float, count: int) -> None:
    assert keep_top_p(np.array([0.5, 0.3, 0.15, 0.05]), p) == count


def test_min_p() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    found = draws(SamplingOptions(temperature=1, min_p=0.31, seed=1), logits.astype(np.float32))
    assert np.nonzero(found)[0].tolist() == [0, 1]


def test_repetition_penalty() -> None:
    logits = np.array([2.0, -2.0, 1.0, 3.0])
    penalize(logits, [0, 1, 1, 0], 2.0)
    assert logits.tolist() == [1.0, -4.0, 1.0, 3.0]
    assert Sampler(SamplingOptions(repeat_penalty=3.0), 2).next(np.array([2, 1.5], np.float32), [0]) == 1


def test_the_seed_decides() -> None:
    options = SamplingOptions(temperature=1.5, seed=42)
    a, b = Sampler(options, 50), Sampler(options, 50)
    first = [a.next(LOGITS, []) for _ in range(50)]
    assert first == [b.next(LOGITS, []) for _ in range(50)]
    other = Sampler(SamplingOptions(temperature=1.5, seed=43), 50)
    assert first != [other.next(LOGITS, []) for _ in range(50)]


def test_extreme_logits() -> None:
    sampler = Sampler(SamplingOptions(temperature=1e-9 + 1e-3, seed=1), 3)
    assert sampler.next(np.array([-np.inf, 5, -np.inf], np.float32), []) == 1
    assert sampler.next(np.array([1e38, -1e38, 0], np.float32), []) == 0
    with pytest.raises(NumericalError):
        sampler.next(np.array([1, np.nan, 0], np.float32), [])


BAD = [
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", 1e308),
    ("temperature", "1"),
    ("top_k", -1),
    ("top_k", 1.5),
    ("top_k", True),
    ("top_p", 0),
    ("top_p", 1.01),
    ("min_p", -1),
    ("min_p", 2),
    ("min_p", math.inf),
    ("repeat_penalty", 0),
    ("repeat_penalty", -1),
    ("seed", -1),
    ("seed", 1 << 64),
    ("seed", 0.5),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        SamplingOptions().changed(**{name: value})


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="topk"):
        SamplingOptions().changed(topk=3)


def test_a_model_states_its_own_defaults() -> None:
    raw = {"do_sample": True, "temperature": 0.3, "min_p": 0.15, "repetition_penalty": 1.05, "top_k": None}
    found = SamplingOptions.from_generation_config(raw)
    assert found == SamplingOptions(temperature=0.3, min_p=0.15, repeat_penalty=1.05)
    assert found.changed(temperature=0, top_p=None).temperature == 0
    assert SamplingOptions.from_generation_config({"do_sample": False, "temperature": 0.9}) == SamplingOptions()
