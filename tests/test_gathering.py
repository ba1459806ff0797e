"""What a step holds: every answer, as much of prompts as there is room for, and no more seconds than were granted."""

from __future__ import annotations

import numpy as np
import pytest

from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.gathering import Pace, Room, gather
from edge_lfm.model.state import State

ROOM = Room(64, 16)
STATE = State.__new__(State)


def answer(tokens: int = 1, logits: str = "last") -> Feed:
    return Feed(STATE, range(tokens), logits)


def prompt(tokens: int, logits: str = "last") -> Feed:
    return Feed(STATE, range(tokens), logits, divisible=True)


def counts(feeds: list[Feed], room: Room = ROOM, prompt_tokens: int = 64) -> dict[int, int]:
    return {n: len(feed.token_ids) for n, feed in gather(feeds, room, prompt_tokens)}


def test_every_answer_takes_part_and_prompts_share_what_is_left() -> None:
    assert counts([answer(), prompt(100), answer(3), prompt(100)]) == {0: 1, 2: 3, 1: 30, 3: 30}
    assert counts([answer(), prompt(100), answer(), prompt(100)], prompt_tokens=10) == {0: 1, 2: 1, 1: 5, 3: 5}
    assert counts([prompt(100), prompt(4), prompt(100)], prompt_tokens=1) == {1: 4, 0: 30, 2: 30}  # no answer waits
    assert counts([answer(), prompt(9), prompt(9)], prompt_tokens=1) == {0: 1, 1: 1}
    assert counts([prompt(9), answer()], prompt_tokens=0) == {1: 1}


def test_a_prompt_that_is_cut_asks_for_no_logits_and_notes_what_it_has() -> None:
    whole = Feed(STATE, range(10), "last", (2, 8), divisible=True)
    (_, part), (_, rest) = gather([whole, prompt(100)], Room(8, 8), 8)
    assert (list(part.token_ids), part.logits, part.noted, part.logit_rows) == ([0, 1, 2, 3], "none", [2], 0)
    assert len(rest.token_ids) == 4
    assert gather([whole], ROOM, 1)[0][1] is whole
    assert gather([prompt(40, "all")], ROOM, 1)[0][1].logit_rows == ROOM.logit_rows


def test_steps_stay_within_their_room_and_no_one_waits_for_ever() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        line = [
            (prompt if rng.random() < 0.5 else answer)(int(rng.choice([1, 2, 9, 16])), rng.choice(["last", "all"]))
            for _ in range(rng.integers(1, 20))
        ]
        room = Room(int(rng.integers(16, 40)), int(rng.integers(16, 40)))
        chosen = gather(line, room, int(rng.integers(1, 40)))
        assert 0 in {n for n, _ in chosen}  # who has waited longest
        assert len({n for n, _ in chosen}) == len(chosen)
        assert sum(len(feed.token_ids) for _, feed in chosen) <= room.rows
        assert sum(feed.logit_rows for _, feed in chosen if feed.logits == "all") <= room.logit_rows
        assert all(feed is line[n] or line[n].divisible for n, feed in chosen)


@pytest.mark.parametrize(
    ("fixed", "row", "power"), [(0.02, 0.004, 1.0), (0.03, 0.02, 0.6), (0.001, 0.05, 1.0), (1, 1, 1.0), (3, 0.01, 0.9)]
)
def test_prompts_add_no_more_seconds_than_were_granted_on_a_steady_machine(
    fixed: float, row: float, power: float
) -> None:
    """But the first parts, or where a single token already adds as much."""
    pace, bound = Pace(0.5, 512), 0.5
    added: list[tuple[int, float]] = []
    while len(added) < 60:
        tokens = pace.tokens
        seconds = row * tokens**power
        pace.note(tokens, fixed + seconds)
        added += [(tokens, seconds)] if tokens else []
    late = [n for n, (tokens, seconds) in enumerate(added) if seconds > bound and tokens > 1]
    assert late == list(range(len(late))) and len(late) <= 5
    tokens, seconds = added[-1]
    assert tokens == 1 or tokens == 512 or seconds > 0.7 * bound  # and what was granted is used


def test_a_machine_that_others_have_made_slower_still_reads_prompts() -> None:
    """Ten times as slow in all: what a prompt adds is told from what its answers take themselves."""
    pace, read = Pace(0.5, 512), 0
    for n in range(200):
        slow = 1.0 if n < 100 else 10.0
        tokens = pace.tokens
        pace.note(tokens, slow * (0.1 + 0.001 * tokens))
        read += tokens if n >= 150 else 0
    assert read > 50 * 0.7 * 0.5 / 0.01  # of the half second, at ten milliseconds a token


def test_an_answer_that_was_held_up_once_says_little() -> None:
    pace, late = Pace(0.5, 512), 0
    for n in range(100):
        tokens = pace.tokens
        added = 0.01 * tokens
        late += added > 1.0
        pace.note(tokens, 60.0 if n == 0 else 0.1 + added)
    assert late <= 1 and 0.35 < added <= 0.5


def test_a_machine_that_becomes_slower_is_followed_at_once() -> None:
    pace = Pace(0.5, 512)
    pace.note(0, 0.0)
    for _ in range(20):
        pace.note(pace.tokens, 0.001 * pace.tokens)
    before = pace.tokens
    pace.note(before, 0.9)
    assert pace.tokens == 0  # to see what an answer takes alone
    pace.note(0, 0.01)
    assert pace.tokens == before // 2
    pace.note(2, 0.01)  # a short prompt tells nothing about long ones
    assert pace.tokens == before // 2
