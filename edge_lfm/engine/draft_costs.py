"""What drafts cost and bring on this machine: how many to verify, and whether to draft at all.

A step of more rows takes longer, of a mixture of experts by much: its seconds by rows are measured as answers are made.
Drafting is left off while it would lose, and tried again now and then. Knows seconds and counts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

_NEW = 0.1
"""Weight of a new measurement."""
_GUESSED_ROW = 0.2
"""Of a step of one row: what a row more is taken to cost before any was measured."""
MIN_PLAIN_STEPS = 4
"""Steps without drafts that come before the first draft, to compare with."""
PLAIN_EVERY = 64
"""Rounds after which one without drafts measures again."""
TRIAL_ROUNDS = 8
MAX_LOSS = 2.0
"""Plain steps that a trial may lose before its rounds are over: then it ends at once. With the last round, which may
take twice as long as a plain step and more, that is some 3 of the 256 tokens that follow, 1.2 %."""
FIRST_PAUSE, MAX_PAUSE = 256, 16384
"""Tokens without drafts after a trial that lost; twice as many after each further one."""
WARM_UP = 32
"""Tokens that the drafter looks on at before it drafts again."""


@dataclass(frozen=True)
class StepTook:
    """A step: its feeds and rows, the target's seconds, and those in which a drafter read the tapped streams."""

    feeds: int = 0
    rows: int = 0
    step_s: float = 0.0
    read_s: float = 0.0


class StepCosts:
    """Seconds of steps, by their rows."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """Take account of a step."""
        old = self._seconds.get(rows)
        # A step that another process held up counts as twice the usual at most.
        self._seconds[rows] = seconds if old is None else old + _NEW * (min(seconds, 2 * old) - old)

    def of(self, rows: int) -> float:
        """Of a step of so many rows: measured, or on the line between those that were; 0 if none was."""
        if rows in self._seconds or not self._seconds:
            return self._seconds.get(rows, 0.0)
        below = max((n for n in self._seconds if n < rows), default=None)
        above = min((n for n in self._seconds if n > rows), default=None)
        if below is None:
            assert above is not None
            return self._seconds[above]
        if above is None:
            first = min(self._seconds)
            return self._seconds[below] + (rows - below) * _GUESSED_ROW * self._seconds[first] / max(1, first)
        share = (rows - below) / (above - below)
        return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])

    def best_counts(self, confidences: Sequence[Sequence[float]], other_rows: int, others: int, most: int) -> list[int]:
        """How many drafts of each answer give the most tokens a second together, beside `others` answers that have
        `other_rows` rows.

        confidences: of each answer's drafts, that one is right if those before it are.
        most: of all drafts.
        """
        answers = len(confidences)
        chances = [
            (-chance, k, n) for n, row in enumerate(confidences) for k, chance in enumerate(accumulate(row, mul))
        ]
        likeliest = sorted(chances)[:most]
        tokens = accumulate((-chance for chance, _, _ in likeliest), initial=float(others + answers))
        rates = [expected / max(1e-9, self.of(other_rows + answers + k)) for k, expected in enumerate(tokens)]
        kept = [n for _, _, n in likeliest[: rates.index(max(rates))]]
        return [kept.count(n) for n in range(answers)]


class Switch:
    """Whether to draft, by what drafting brought so far; one for all answers of a model."""

    def __init__(self) -> None:
        self.costs = StepCosts()
        self._plain = self._rounds = self._pause = 0
        self._left = 0  # tokens until drafting is tried again
        self._gained = self._spent = 0.0  # seconds of plain steps that the rounds saved the need of, and their own
        self._lost = 0.0  # plain steps, since drafting last gained as much as it lost

    @property
    def looks_on(self) -> bool:
        """Whether the drafter is to see what the target reads."""
        return self._left <= WARM_UP

    def wants(self, answers: int) -> bool:
        """Whether to draft now; to be asked before every step of so many answers."""
        if self._left:
            self._left = max(0, self._left - answers)
            return False
        if self._plain < MIN_PLAIN_STEPS or self._rounds % PLAIN_EVERY == PLAIN_EVERY - 1:
            self._plain += 1
            self._rounds += self._plain > MIN_PLAIN_STEPS
            return False
        return True

    def note_round(self, took: StepTook, answers: int, drafts: int, gained: int, drafting_s: float) -> None:
        """Take account of a round of some answers: the step in which so many drafts were verified, the tokens that it
        gave them, and the seconds that drafting took. Others in that step gained a token each."""
        self._rounds += 1
        step_s = min(took.step_s, 2 * self.costs.of(took.rows))  # another process may have held it up
        own, round_s = self.costs.of(took.rows - drafts), step_s + took.read_s + drafting_s
        plain = own * (took.feeds - answers + gained) / took.feeds
        self._gained += _NEW * (plain - self._gained)
        self._spent += _NEW * (round_s - self._spent)
        self._lost = max(0.0, self._lost + (round_s - plain) / max(1e-9, own))
        if self._lost >= MAX_LOSS or (self._rounds % TRIAL_ROUNDS == 0 and self._gained < self._spent):
            self._pause = min(MAX_PAUSE, 2 * self._pause or FIRST_PAUSE)
            self._left, self._gained, self._spent, self._lost = self._pause, 0.0, 0.0, 0.0
        elif self._rounds % TRIAL_ROUNDS == 0 and self._rounds >= PLAIN_EVERY:
            self._pause = 0
