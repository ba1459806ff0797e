"""What an answer may not say, and where it may end: bad words, stop tokens, the fewest tokens, ignored ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_lfm import Model
from edge_lfm.engine.constraints import NotYet, Without
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.errors import GrammarError, UsageError
from edge_lfm.text.stops import StopStrings

VOCAB = 6
CAPITAL = "What is the capital of France?"
SEQUENCES = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4), min_size=1, max_size=4)
# Each piece of a text, and whether a stop string that it completes ends the answer.
PIECES = st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.booleans()), max_size=10)


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]) -> Iterator[Model]:
    with Model.load(demo["int4"], threads=1) as loaded:
        yield loaded


@given(SEQUENCES, st.integers(0, 2**32 - 1))
def test_no_answer_completes_a_bad_word(sequences: list[list[int]], seed: int) -> None:
    """Allowed are exactly those tokens behind which the answer ends in none of the sequences."""
    constraint = Without(None, sequences, VOCAB)
    sampler = Sampler(SamplingOptions(temperature=1, seed=seed), VOCAB, (0, 1), constraint=constraint)
    for _ in range(12):
        clean = [
            token
            for token in range(VOCAB)
            if not any([*sampler.answer, token][-len(bad) :] == list(bad) for bad in sequences)
        ]
        if not clean:
            with pytest.raises(GrammarError, match="bad_words"):
                sampler.next(np.zeros(VOCAB, np.float32))
            return
        allowed = constraint.allowed()
        assert clean == (list(range(VOCAB)) if allowed is None else np.flatnonzero(allowed).tolist())
        assert sampler.next(np.zeros(VOCAB, np.float32)) in clean


@given(st.integers(0, 8), st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=VOCAB - 1), st.integers(0, 1 << 30))
def test_no_end_comes_before_the_fewest_tokens(count: int, ends: set[int], seed: int) -> None:
    constraint = NotYet(None, sorted(ends), VOCAB, count)
    sampler = Sampler(SamplingOptions(temperature=1, seed=seed), VOCAB, constraint=constraint)
    answer = [sampler.next(np.zeros(VOCAB, np.float32)) for _ in range(count)]
    assert ends.isdisjoint(answer)
    assert constraint.allowed() is None


@given(PIECES, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_ends_the_text_where_one_may(pieces: list[tuple[str, bool]], stops: list[str]) -> None:
    """The first place, in a piece that may end the answer, where a stop string is complete; of two the longer."""
    matcher = StopStrings(stops)
    shown = "".join(matcher.feed(text, may_end) for text, may_end in pieces) + matcher.finish()
    text, ends = "".join(piece for piece, _ in pieces), []
    for piece, may_end in pieces:
        ends += [may_end] * len(piece)
    complete = (
        (end, stop)
        for end in range(1, len(text) + 1)
        for stop in sorted(stops, key=len, reverse=True)
        if ends[end - 1] and text[:end].endswith(stop)
    )
    end, stop = next(complete, (len(text), ""))
    assert shown == text[: end - len(stop)]
    assert matcher.ended_by == (stop or None)


def test_a_bad_word_comes_nowhere(model: Model) -> None:
    assert model.tokenizer is not None
    assert "Paris" in model.generate(CAPITAL, temperature=0).text
    for word in ("Paris", " Paris", "France", "capital of"):
        answer = model.generate(CAPITAL, temperature=0, bad_words=[word], max_tokens=40)
        for text in (word.lstrip(), f" {word.lstrip()}"):
            ids = model.tokenizer.encode(text)
            places = range(len(answer.token_ids) - len(ids) + 1)
            assert not any(list(answer.token_ids[n : n + len(ids)]) == ids for n in places), (word, answer.text)


def test_stop_tokens_end_an_answer_without_their_text(model: Model) -> None:
    assert model.tokenizer is not None
    plain = model.generate(CAPITAL, temperature=0)
    for n, token in enumerate(plain.token_ids[:-1]):
        answer = model.generate(CAPITAL, temperature=0, stop_token_ids=[token], logprobs=0)
        first = plain.token_ids.index(token)
        assert answer.token_ids == plain.token_ids[: first + 1], n
        assert answer.text == model.tokenizer.decode(plain.token_ids[:first])
        assert answer.finish_reason == "stop"
        assert len(answer.logprobs) == first + 1 and len(answer.text_logprobs) == first


def test_ends_that_are_ignored(model: Model) -> None:
    plain = model.generate(CAPITAL, temperature=0)
    answer = model.generate(CAPITAL, temperature=0, ignore_eos=True, max_tokens=30)
    assert len(answer.token_ids) == 30 and answer.finish_reason == "length"
    assert answer.token_ids[: len(plain.token_ids)] == plain.token_ids
    assert answer.text.startswith(plain.text)
    second = model.generate(CAPITAL, temperature=0, ignore_eos=True, max_tokens=30, stop_token_ids=model.stop_ids)
    assert second.token_ids == plain.token_ids and second.finish_reason == "stop"


def test_the_fewest_tokens(model: Model) -> None:
    plain = model.generate(CAPITAL, temperature=0)
    for count in (len(plain.token_ids) - 1, len(plain.token_ids) + 5):
        answer = model.generate(CAPITAL, temperature=0, min_tokens=count, max_tokens=40)
        assert not set(model.stop_ids) & set(answer.token_ids[:count])
        assert (answer.token_ids == plain.token_ids) is (count < len(plain.token_ids))
    first = model.generate(CAPITAL, temperature=0, stop="a").text
    later = model.generate(CAPITAL, temperature=0, stop="a", min_tokens=5, max_tokens=40).text
    assert plain.text.startswith(later) and len(later) > len(first)


OPTIONS: list[dict[str, Any]] = [
    {"min_tokens": 30},
    {"ignore_eos": True},
    {"bad_words": ["Paris", "the capital"]},
    {"stop_token_ids": [27]},
    {"min_tokens": 6, "stop": ["a", "s."], "bad_words": ["Paris"], "ignore_eos": True},
    {"min_tokens": 20, "regex": "[a-c]{1,8} [0-9]+", "bad_words": ["1"]},
    {"ignore_eos": True, "choices": ["yes", "no"]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_and_streams_change_nothing(model: Model, options: dict[str, Any], temperature: float) -> None:
    drawn = {"max_tokens": 40, "temperature": temperature, "seed": 7} | options
    prompt = f"{CAPITAL} The capital of France is Paris."
    told = model.generate(prompt, logprobs=0, **drawn)
    assert all(np.isfinite(t.logprob) for t in told.logprobs) and len(told.logprobs) == len(told.token_ids)
    drafted = model.generate(prompt, lookup=4, **drawn)
    assert drafted.token_ids == told.token_ids and drafted.text == told.text
    assert drafted.finish_reason == told.finish_reason
    assert "".join(model.stream(prompt, logprobs=0, **drawn).texts()) == told.text
    if "regex" not in options and "choices" not in options:  # where a grammar forces tokens, the text is the same
        assert model.generate(prompt, **drawn).token_ids == told.token_ids


def test_a_grammar_that_is_complete_ends_the_answer(model: Model) -> None:
    for options in ({"min_tokens": 20}, {"ignore_eos": True}, {"min_tokens": 20, "ignore_eos": True, "lookup": 4}):
        answer = model.generate(CAPITAL, choices=["yes", "no"], temperature=0, max_tokens=30, **options)
        assert answer.text in ("yes", "no") and answer.finish_reason == "stop"
    digits = model.generate(CAPITAL, regex="[0-9]+", temperature=0, min_tokens=20, max_tokens=30)
    assert digits.text.isdigit() and len(digits.token_ids) >= 20
    with pytest.raises(GrammarError, match="bad_words"):
        model.generate(CAPITAL, choices=["Paris"], bad_words=["Paris"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_tokens": 9, "max_tokens": 8}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 257}, "stop_token_ids"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"bad_words": ["a" * 501]}, "bad_words"),
        ({"bad_words": ["a"] * 1001}, "bad_words"),
        ({"ignore_eos": 1}, "ignore_eos"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(model: Model, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        model.generate(CAPITAL, **options)
