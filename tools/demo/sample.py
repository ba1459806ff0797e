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
from string import ascii_lowercase
from typing import Any, TypeVar

T = TypeVar("T")
Message = dict[str, str]

HELD_OUT = 8
"""One value in so many is held out."""

NAMES = (
    "Anna Ben Carla David Emma Felix Grace Henry Irene Jack Karin Leo Maria Nina Oscar Paula Quinn Rosa Sam Tina "
    "Victor Wendy Alice Bob Clara Daniel Elena Frank Greta Hugo Ivan Julia Kevin Laura Martin Nora Oliver Peter Ruth "
    "Simon Tom Vera Walter Zoe Lucy Max Mia Tim Lily Lena Paul Sara John Mary Ella Jonas"
).split()
CITIES = (
    "London Paris Berlin Madrid Rome Vienna Oslo Boston Chicago Denver Lisbon Porto Dublin Prague Tokyo Delhi Cairo "
    "Lima Quito Milan Geneva Munich Hamburg Lyon Seville Athens Warsaw Helsinki Toronto Sydney"
).split()
_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr r s sh st t tr v w z".split()
_VOWELS = "a e i o u ai ea oo ia".split()
_CODAS = "n r l s m t k nd rt x".split()
_COINED = 0.4
"""Share of the words that training draws. Without them, a word that was never trained came out as one that was."""
COLORS = "red blue green yellow black white purple orange brown pink grey silver golden violet".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()


@dataclass
class Sample:
    """A conversation up to its last user or tool turn, or a raw prompt, and what should follow.

    `check` and `expect` are those of `edge_lfm.measure.tasks`. `unseen`: of a kind that training does not have.
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
def word_lists() -> tuple[list[str], list[str], list[str]]:
    """Nouns, verbs, and others."""
    lines = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines()
    return lines[1].split(), lines[2].split(), lines[3].split()


def held(key: str) -> bool:
    return zlib.crc32(key.encode()) % HELD_OUT == 0


class Draw:
    """Draws values of one split ("train" or "test"). `any_words`: nouns and verbs may be any words at all."""

    def __init__(self, seed: str, split: str, any_words: bool = False) -> None:
        self.random, self.test, self.any_words = random.Random(f"{seed}-{split}"), split == "test", any_words

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
        """A word that does not exist, or that nobody expects; of so many syllables if it is not coined."""
        if self._coins():
            return self.of_split(self._coined)

        def make() -> str:
            count = syllables or self.pick((1, 2, 2, 2, 3))
            stem = "".join(self.pick(_ONSETS) + self.pick(_VOWELS) for _ in range(count))
            return stem + (self.pick(_CODAS) if self.chance(0.6) else "")

        return self.of_split(make)

    def noun(self) -> str:
        make = self._coined if self._coins() else lambda: self.pick(word_lists()[0])
        return self.of_split(make, lambda w: f"noun {w}")

    def nouns(self, count: int) -> list[str]:
        return self.distinct(self.noun, count)

    def verb(self) -> str:
        make = self._coined if self._coins() else lambda: self.pick(word_lists()[1])
        return self.of_split(make, lambda w: f"verb {w}")

    def _coins(self) -> bool:
        """Only in training: what is asked of the test split are words that exist, or sound as if they did."""
        return not self.test and self.chance(_COINED)

    def _coined(self) -> str:
        """The beginning of one word and the end of another, any letters, or any word: it can only be copied."""
        if self.chance(0.15):
            return "".join(self.some(ascii_lowercase, self.whole(2, 6)))
        nouns, verbs, others = word_lists()
        if self.any_words and self.chance(0.6):
            return self.pick(others)
        words = self.pick((nouns, verbs, NAMES, CITIES))
        head, tail = self.pick(words).lower(), self.pick(words).lower()
        cut = len(head) if self.chance(0.3) else self.whole(1, len(head))
        return head[:cut] + tail[self.whole(len(tail) // 3, len(tail) - 1) :]

    def any_noun(self) -> str:
        """One that may be of both splits: the filling of texts, never an answer."""
        return self.pick(word_lists()[0])

    def name(self) -> str:
        return self.of_split(lambda: self.pick(NAMES)) if self.chance(0.4) else self.word().capitalize()

    def full_name(self) -> str:
        return f"{self.name()} {self.word().capitalize()}"

    def place(self) -> str:
        return self.of_split(lambda: self.pick(CITIES)) if self.chance(0.4) else self.word().capitalize()

    def number(self, low: int, high: int) -> int:
        return self.of_split(lambda: self.whole(low, high), lambda n: f"n{n}")

    def distinct(self, make: Callable[[], T], count: int) -> list[T]:
        values: list[T] = []
        while len(values) < count:
            value = make()
            if value not in values:
                values.append(value)
        return values


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
