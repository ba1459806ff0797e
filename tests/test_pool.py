"""Which sequence a prompt starts from, against a look through all; and that it costs the same among thousands."""

from __future__ import annotations

import random
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_lfm import Model
from edge_lfm.engine import pool as pool_module
from edge_lfm.engine.pool import SequencePool
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.model.state import State


class Talk:
    """A conversation, as far as a pool knows one."""


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]) -> Iterator[Model]:
    with Model.load(demo["int4"], threads=1, context=256) as loaded:
        yield loaded


def read(model: Model, ids: list[int], places: list[int]) -> TokenSequence:
    """A sequence that says that it has read these tokens, and can go back to these places."""
    state = State(model.shape, 256)
    sequence = TokenSequence(state)
    for position in sorted({*places, len(ids)}):
        state.position = position
        sequence.checkpoints[position] = state.checkpoint()
    del sequence.checkpoints[len(ids)]
    state.position = len(ids)
    sequence.ids = array("i", ids)
    return sequence


def reach(sequence: TokenSequence, ids: list[int]) -> int:
    """The longest prefix of a prompt, short of its last token, that a sequence can be brought to."""
    places = {*sequence.checkpoints, len(sequence.ids)}
    return max((p for p in places if p < len(ids) and list(sequence.ids[:p]) == ids[:p]), default=0)


def test_the_longest_prefix_is_found(model: Model) -> None:
    rng = random.Random(0)
    pool = SequencePool(lambda: State(model.shape, 256), 1 << 30)
    kept: list[TokenSequence] = []
    lent: list[TokenSequence] = []
    talks = [Talk() for _ in range(4)]
    for _ in range(400):
        ids = [rng.randrange(3) for _ in range(rng.randrange(1, 12))]
        if rng.random() < 0.5:
            sequence = read(model, ids, rng.sample(range(len(ids)), rng.randrange(min(3, len(ids)))))
            talk = rng.choice([None, None, *talks])
            pool.give(sequence, weakref.ref(talk) if talk else None)
            kept = [entry.sequence for entry in pool._idle.values()]
            assert sequence in kept
            if talk:
                assert pool.find(weakref.ref(talk)) is sequence
        else:
            expected = max((reach(s, ids) for s in [*kept, *lent]), default=0)
            taken = pool.take(ids)
            lent = rng.sample([*lent, taken], min(3, len(lent) + 1))  # some are given up and not given back
            size, prefix = len(taken.ids), list(taken.ids)
            del taken
            assert size == expected and prefix == ids[:expected]
            kept = [entry.sequence for entry in pool._idle.values()]
        assert pool.stats.sequences == len(kept)
        assert pool.stats.nbytes == sum(s.nbytes for s in kept)
    while pool._idle:
        pool._remove(next(iter(pool._idle.values())).sequence)
    assert not pool._by_place._found and not pool._by_end._found and not pool._by_holder._found


def test_what_another_one_offers_too_is_not_kept_twice(model: Model) -> None:
    pool = SequencePool(lambda: State(model.shape, 256), 1 << 30)
    pool.give(read(model, [1, 2, 3], []))
    pool.give(read(model, [1, 2, 3, 4, 5], [3]))
    assert pool.stats.sequences == 1
    pool.give(read(model, [1, 2, 3, 4, 5, 6], [5]))  # it cannot go back to 3
    assert pool.stats.sequences == 2


def test_looking_for_a_prefix_does_not_grow_with_what_is_kept(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them share a system prompt, and a place behind it."""
    pool, system = SequencePool(lambda: State(model.shape, 256), 1 << 40), list(range(40))
    looks: list[int] = []
    offers = pool_module._offers
    monkeypatch.setattr(pool_module, "_offers", lambda s, ids: looks.append(1) or offers(s, ids))
    for n in range(1000):
        pool.give(read(model, [*system, 5, n % 50, n], [40]))
    assert pool.stats.sequences == 1000
    looks.clear()
    pool.give(pool.take([*system, 7, 8]))
    assert 0 < len(looks) <= 2
