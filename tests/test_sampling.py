"""Each sampling step against its definition, and the options' limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_lfm.engine import sampling_steps as steps
from edge_lfm.engine.sampling import Sampler, SamplingOptions, token_logprobs
from edge_lfm.errors import NumericalError, UsageError

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal(50).astype(np.float32)


def draws(options: SamplingOptions, logits: np.ndarray, count: int = 4000, vocab: int | None = None) -> np.ndarray:
    sampler = Sampler(options, vocab or len(logits))
    return np.bincount([sampler.next(logits) for _ in range(count)], minlength=len(logits)) / count


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def test_greedy_takes_the_largest_and_the_lower_of_equals() -> None:
    assert Sampler(SamplingOptions(), 50).next(LOGITS) == LOGITS.argmax()
    assert Sampler(SamplingOptions(), 4).next(np.array([1, 3, 3, 0], np.float32)) == 1


def test_padding_rows_are_never_drawn() -> None:
    logits = np.array([0, 1, 2, 100], np.float32)
    assert Sampler(SamplingOptions(), 3).next(logits) == 2
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
    assert list(steps.keep_top_k(np.array([1.0, 2, 2, 0]), 1)) == [1]  # of equals the lower id
    assert list(steps.keep_top_k(np.array([1.0, 2, 2, 0]), 3)) == [0, 1, 2]
    assert list(steps.keep_top_k(np.array([1.0, 2, 2, 0]), 0)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("p", "count"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_p(p: float, count: int) -> None:
    assert list(steps.keep_top_p(np.array([0.5, 0.3, 0.15, 0.05]), p)) == list(range(count))
    assert list(steps.keep_top_p(np.array([0.05, 0.15, 0.3, 0.5]), p)) == list(range(4 - count, 4))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99, 0.999999])
def test_top_p_of_a_real_vocabulary_equals_a_full_sort(p: float) -> None:
    for width in (1.0, 6.0):
        probabilities = softmax(np.random.default_rng(1).standard_normal(65536) * width)
        order = np.argsort(-probabilities, kind="stable")
        count = int(np.searchsorted(np.cumsum(probabilities[order]), p)) + 1
        assert list(steps.keep_top_p(probabilities, p)) == sorted(order[:count])


@pytest.mark.parametrize("k", [1, 40, 200, 5000])
def test_top_k_of_a_real_vocabulary_equals_a_full_sort(k: int) -> None:
    rng = np.random.default_rng(k)
    for logits in (rng.standard_normal(65536), np.round(rng.standard_normal(64402), 1), np.zeros(65536)):
        logits[rng.integers(0, len(logits), 100)] = -np.inf
        assert list(steps.keep_top_k(logits, k)) == sorted(np.argsort(-logits, kind="stable")[:k])


@pytest.mark.parametrize("options", [{"min_p": 0.15}, {"min_p": 1.0}, {"min_p": 1e-9, "top_k": 50}, {"min_p": 0.05}])
def test_min_p_of_a_real_vocabulary_draws_what_its_definition_does(options: dict[str, float]) -> None:
    """Probabilities of all tokens first; then those go that are less likely than min_p times the likeliest."""
    rng = np.random.default_rng(7)
    for width in (0.5, 3.0, 8.0):
        sampler, numbers = Sampler(SamplingOptions(temperature=0.8, seed=3, **options), 65536), np.random.default_rng(3)
        for _ in range(40):
            logits = np.round(rng.standard_normal(65536) * width, 3).astype(np.float32)
            tokens = steps.keep_top_k(logits.astype(np.float64), int(options.get("top_k", 0)))
            p = softmax(logits.astype(np.float64)[tokens] / 0.8)
            tokens, p = tokens[p >= options["min_p"] * p.max()], p[p >= options["min_p"] * p.max()]
            at = np.searchsorted(np.cumsum(p / p.sum()), numbers.random(), side="right")
            assert sampler.next(logits) == tokens[at]


def test_min_p() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    found = draws(SamplingOptions(temperature=1, min_p=0.31, seed=1), logits.astype(np.float32))
    assert np.nonzero(found)[0].tolist() == [0, 1]


def test_truncations_follow_each_other_in_the_stated_order() -> None:
    """Each works on what the one before has left: 5 of 6 by top-k, 4 by top-p, 3 by min-p."""
    logits = np.log(np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])).astype(np.float32)
    options = SamplingOptions(temperature=1, top_k=5, top_p=0.9, min_p=0.3, seed=1)
    found = draws(options, logits, 20000)
    expected = np.array([0.4, 0.25, 0.15, 0, 0, 0]) / 0.8
    assert (np.abs(found - expected) < 5 * np.sqrt(expected / 20000) + 1e-9).all()


def test_xtc_spares_the_least_likely_of_the_likely() -> None:
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    assert list(steps.keep_xtc(probabilities, 0.15)) == [2, 3]
    assert list(steps.keep_xtc(probabilities, 0.35)) == [0, 1, 2, 3]  # one alone is no choice
    assert list(steps.keep_xtc(probabilities, 0.5)) == [0, 1, 2, 3]
    always = SamplingOptions(temperature=1, xtc_probability=1, xtc_threshold=0.15, seed=1)
    logits = np.log(probabilities).astype(np.float32)
    assert np.nonzero(draws(always, logits))[0].tolist() == [2, 3]
    half = draws(SamplingOptions(temperature=1, xtc_probability=0.5, xtc_threshold=0.15, seed=1), logits, 20000)
    expected = 0.5 * probabilities + 0.5 * np.array([0, 0, 2 / 3, 1 / 3])
    assert (np.abs(half - expected) < 5 * np.sqrt(expected / 20000)).all()


def test_repetition_penalty() -> None:
    logits = np.array([2.0, -2.0, 1.0, 3.0])
    steps.penalize_repetition(logits, np.array([0, 1]), 2.0)
    assert logits.tolist() == [1.0, -4.0, 1.0, 3.0]
    assert Sampler(SamplingOptions(repeat_penalty=3.0), 2, prompt=[0]).next(np.array([2, 1.5], np.float32)) == 1
    sampler = Sampler(SamplingOptions(repeat_penalty=3.0), 3)  # tokens of the answer count too
    assert [sampler.next(np.array([2, 1.5, 0.9], np.float32)) for _ in range(4)] == [0, 1, 2, 0]


def test_presence_and_frequency_penalties_count_the_answer_only() -> None:
    logits = np.array([2.0, 1.9, 1.0])
    steps.penalize_presence(logits, np.array([2, 0, 1]), 0.5, 0.25)
    assert logits.tolist() == [1.0, 1.9, 0.25]
    flat = np.array([1.0, 0.9, 0.8], np.float32)
    sampler = Sampler(SamplingOptions(presence_penalty=0.15), 3, prompt=[0, 0, 0])
    assert [sampler.next(flat) for _ in range(4)] == [0, 1, 0, 0]
    sampler = Sampler(SamplingOptions(frequency_penalty=0.15), 3)
    assert [sampler.next(flat) for _ in range(5)] == [0, 1, 0, 2, 1]


def dry(seen: list[int], vocab: int, breakers: set[int], multiplier: float, base: float, allowed: int) -> np.ndarray:
    """The definition: for each token, the longest end of the text that stood before with that token behind it."""
    off = np.zeros(vocab)
    for token in range(vocab):
        for n in range(len(seen), 0, -1):
            end = seen[-n:]
            stood = any(seen[i : i + n] == end and seen[i + n] == token for i in range(len(seen) - n))
            if stood and not breakers & set(end):
                off[token] = multiplier * base ** (n - allowed) if n >= allowed else 0
                break
    return off


def test_dry_penalizes_what_would_repeat() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        seen = rng.integers(0, 4, rng.integers(1, 24)).tolist()
        breakers = frozenset(rng.integers(0, 6, 1).tolist())
        logits = np.zeros(6)
        steps.penalize_sequences(logits, seen, breakers, 0.8, 1.75, 2)
        assert np.allclose(-logits, dry(seen, 6, set(breakers), 0.8, 1.75, 2))
    logits = np.zeros(6)
    steps.penalize_sequences(logits, [1] * 5000, frozenset(), 0.8, 1.75, 2)
    assert np.isfinite(logits).all() and logits[1] < -1e9
    steps.penalize_sequences(logits, [], frozenset(), 0.8, 1.75, 2)


def test_logit_bias() -> None:
    sampler = Sampler(SamplingOptions(logit_bias={2: 5.0, 0: -100.0, 99: 7.0}), 3)
    assert sampler.next(np.array([9.0, 1.0, 0.0, 99.0], np.float32)) == 2


def test_logprobs_are_the_models_own() -> None:
    logits = np.append(LOGITS, np.float32(50))  # a padding row
    expected = np.log(softmax(LOGITS.astype(np.float64)))
    found = token_logprobs(logits, 50, 7, 5)
    assert found.token_id == 7 and math.isclose(found.logprob, expected[7], rel_tol=1e-9)
    assert [i for i, _ in found.top] == np.argsort(-expected)[:5].tolist()
    assert np.allclose([value for _, value in found.top], np.sort(expected)[::-1][:5])
    assert token_logprobs(logits, 50, 7, 0).top == ()


def test_the_seed_decides() -> None:
    options = SamplingOptions(temperature=1.5, seed=42)
    a, b = Sampler(options, 50), Sampler(options, 50)
    first = [a.next(LOGITS) for _ in range(50)]
    assert first == [b.next(LOGITS) for _ in range(50)]
    other = Sampler(SamplingOptions(temperature=1.5, seed=43), 50)
    assert first != [other.next(LOGITS) for _ in range(50)]


def test_extreme_logits() -> None:
    sampler = Sampler(SamplingOptions(temperature=1e-9 + 1e-3, seed=1), 3)
    assert sampler.next(np.array([-np.inf, 5, -np.inf], np.float32)) == 1
    assert sampler.next(np.array([1e38, -1e38, 0], np.float32)) == 0
    with pytest.raises(NumericalError):
        sampler.next(np.array([1, np.nan, 0], np.float32))


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
    ("presence_penalty", 2.1),
    ("frequency_penalty", -3),
    ("dry_multiplier", -1),
    ("dry_base", 0.5),
    ("dry_allowed_length", 0),
    ("xtc_probability", 1.5),
    ("xtc_threshold", 0),
    ("temperature", 10**400),
    ("logit_bias", [1]),
    ("logit_bias", {1: 101}),
    ("logit_bias", {-1: 1}),
    ("logit_bias", {1: math.nan}),
    ("logit_bias", dict.fromkeys(range(5000), 1.0)),
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
