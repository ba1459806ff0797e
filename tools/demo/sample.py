"""A training sample, and the random source that samples are drawn from.

Two splits never share a value: names, words and numbers are accepted or refused by a hash of their text, so that a
held-out value never occurs in training; where a space is a product, the combination is hashed. Knows no task.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Message = dict[str, str]

HELD_OUT = 8
"""One value in so many is held out."""

_NAMES = (
    "Anna Ben Carla David Emma Felix Grace Henry Irene Jack Karin Leo Maria Nina Oscar Paula Quinn Rosa Sam Tina "
    "Victor Wendy Alice Bob Clara Daniel Elena Frank Greta Hugo Ivan Julia Kevin Laura Martin Nora Oliver Peter Ruth "
    "Simon Tom Vera Walter Zoe Lucy Max Mia Tim Lily Lena Paul Sara John Mary Ella Jonas"
).split()
_CITIES = (
    "London Paris Berlin Madrid Rome Vienna Oslo Boston Chicago Denver Lisbon Porto Dublin Prague Tokyo Delhi Cairo "
    "Lima Quito Milan Geneva Munich Hamburg Lyon Seville Athens Warsaw Helsinki Toronto Sydney"
).split()
_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr r s sh st t tr v w z".split()
_VOWELS = "a e i o u ai ea oo ia".split()
_CODAS = "n r l s m t k nd rt x".split()
COLORS = "red blue green yellow black white purple orange brown pink grey silver golden violet".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()


@dataclass
class Sample:
    """A conversation up to its last user or tool turn, or a raw prompt, and what should follow.

    `check` and `expect` are those of `edge_lfm.engine.tasks`. `unseen`: of a kind that training does not have.
    """

    task: str
    answer: str
    check: str
    expect: Any
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    raw_prompt: str | None = None
    unseen: bool = False

    @property
    def name(self) -> str:
        """The task, unseen kinds apart."""
        return f"{self.task}, unseen" if self.unseen else self.task


@cache
def word_lists() -> tuple[list[str], list[str]]:
    """Nouns and verbs."""
    lines = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines()
    return lines[1].split(), lines[2].split()


def held(key: str) -> bool:
    return zlib.crc32(key.encode()) % HELD_OUT == 0


class Draw:
    """Draws values of one split ("train" or "test")."""

    def __init__(self, seed: str, split: str) -> None:
        self.random, self.test = random.Random(f"{seed}-{split}"), split == "test"

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def pick(self, values: Sequence[T]) -> T:
        return self.random.choice(values)

    def some(self, values: Sequence[T], count: int) -> list[T]:
        return self.random.sample(values, count)

    def shuffled(self, values: Sequence[T]) -> list[T]:
        return self.random.sample(values, len(values))

    def whole(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def of_split(self, make: Callable[[], T], key: Callable[[T], str] = str) -> T:
        """A value that belongs to this split."""
        while held(key(value := make())) != self.test:
            pass
        return value

    def wording(self, trained: Sequence[str], unseen: Sequence[str] = ()) -> str:
        """A way to say it; the test split also uses ways that training does not have."""
        return self.pick(unseen) if self.test and unseen and self.chance(0.4) else self.pick(trained)

    def word(self, syllables: int | None = None) -> str:
        """A word that does not exist."""

        def make() -> str:
            count = syllables or self.pick((1, 2, 2, 2, 3))
            stem = "".join(self.pick(_ONSETS) + self.pick(_VOWELS) for _ in range(count))
            return stem + (self.pick(_CODAS) if self.chance(0.6) else "")

        return self.of_split(make)

    def noun(self) -> str:
        return self.of_split(lambda: self.pick(word_lists()[0]), lambda w: f"noun {w}")

    def nouns(self, count: int) -> list[str]:
        return self.distinct(self.noun, count)

    def verb(self) -> str:
        return self.of_split(lambda: self.pick(word_lists()[1]), lambda w: f"verb {w}")

    def any_noun(self) -> str:
        """One that may be of both splits: the filling of texts, never an answer."""
        return self.pick(word_lists()[0])

    def name(self) -> str:
        return self.of_split(lambda: self.pick(_NAMES)) if self.chance(0.4) else self.word().capitalize()

    def full_name(self) -> str:
        return f"{self.name()} {self.word().capitalize()}"

    def place(self) -> str:
        return self.of_split(lambda: self.pick(_CITIES)) if self.chance(0.4) else self.word().capitalize()

    def number(self, low: int, high: int) -> int:
        return self.of_split(lambda: self.whole(low, high), lambda n: f"n{n}")

    def distinct(self, make: Callable[[], T], count: int) -> list[T]:
        found: list[T] = []
        while len(found) < count:
            value = make()
            if value not in found:
                found.append(value)
        return found


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
