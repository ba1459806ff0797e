"""Places of a prompt to go back to: what parts from it near its end is read from near there, and is the same."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import serving

from edge_lfm import Model
from edge_lfm.engine.sequence import CHECKPOINT_TOKENS, TokenSequence, places_in
from edge_lfm.model.state import Checkpoint

DOCUMENT = "The cat sat on the mat, and the dog sat on the log. " * 40
FIRST = "Who sat on the mat?"
QUESTIONS = ("Why?", "Did the dog sit on the log, or did it sit on the mat?", "Did the cat sit on the log? " * 9)


def read_at_most(asked: int) -> int:
    """Of a prompt whose last `asked` tokens are new, in place of the fewer than 16 of `FIRST` and what follows it."""
    return asked + 16


@pytest.fixture(scope="module")
def fresh(demo: dict[str, Path]):
    """The same model without any memory of earlier prompts."""
    with Model.load(demo["int4"], threads=1, cache=1) as loaded:
        yield loaded
        assert loaded.reuse.tokens_reused == 0


def test_another_question_on_a_document_reads_little_but_the_question(demo: dict[str, Path], fresh: Model) -> None:
    with Model.load(demo["int4"], threads=1) as model:
        document = len(model.encode_prompt(DOCUMENT))
        assert document > 4 * CHECKPOINT_TOKENS
        model.generate(DOCUMENT + FIRST, max_tokens=2)
        for question in QUESTIONS:
            answer = model.generate(DOCUMENT + question, max_tokens=8)
            asked = len(model.encode_prompt(DOCUMENT + question)) - document + 8  # and the opening of the answer
            assert answer.timings.prompt_tokens - answer.timings.cached_tokens <= read_at_most(asked), question
            assert answer.token_ids == fresh.generate(DOCUMENT + question, max_tokens=8).token_ids


def test_a_server_reads_no_more(demo: dict[str, Path]) -> None:
    with serving(str(demo["int4"])) as address:
        for question in (FIRST, QUESTIONS[0]):
            body = {"messages": [{"role": "user", "content": DOCUMENT + question}], "max_tokens": 2}
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request) as reply:
                usage = json.load(reply)["usage"]
    assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] <= read_at_most(12)


def test_places_of_a_prompt() -> None:
    assert places_in(1) == {0} and places_in(CHECKPOINT_TOKENS) == {CHECKPOINT_TOKENS - 1}
    for count in (CHECKPOINT_TOKENS + 1, 1000, 5 * CHECKPOINT_TOKENS):
        places = sorted(places_in(count))
        assert places[0] > 0 and places[-1] == count - 1
        for new in range(1, count):  # tokens behind the place where another prompt parts
            kept = max((place for place in places if place <= count - new), default=0)
            assert count - new - kept < min(max(16, new), CHECKPOINT_TOKENS)


def test_of_too_many_places_the_newest_stay() -> None:
    state: Any = SimpleNamespace(max_checkpoints=8, has_copies=True, with_window=lambda checkpoint: checkpoint)
    sequence, count = TokenSequence(state), 3000
    for place in sorted(places_in(count)):
        sequence.remember(Checkpoint(place, {}))
    kept = sorted(sequence.checkpoints)
    newest = sorted(place for place in places_in(count) if place >= count - CHECKPOINT_TOKENS)
    assert len(kept) == 8 and kept[2:] == newest
    assert kept[0] == CHECKPOINT_TOKENS and count // 3 < kept[1] < count * 2 // 3
