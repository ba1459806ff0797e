"""An endless mixture of packed rows: tokens, weights of their losses, and the number of the document they belong to."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from demo.corpora import Texts
from demo.render import pieces_of
from demo.sample import Sample, user
from demo.tasks import samples

BOS, END_OF_TEXT = 1, 2
SHARES = {"chat": 0.78, "tiny": 0.04, "story": 0.05, "novel": 0.05, "code": 0.04, "multi": 0.04}
ANSWER, PROSE, PROMPT = 3.0, 0.5, 0.1
"""Weights of the losses of what the assistant writes, of other texts, and of prompts."""
_REFILL = 4000
_TRIES = 12


@dataclass(frozen=True)
class _Document:
    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


class Stream:
    """`length`: tokens of a row; documents of conversations are never cut. `any_words`: as `Draw` says."""

    def __init__(self, tokenizer: Tokenizer, texts: Texts, seed: int, length: int, any_words: bool) -> None:
        self.tokenizer, self.length, self._any_words = tokenizer, length, any_words
        self._random, self._seed, self._refills = random.Random(seed), seed, 0
        self._drawn = dict.fromkeys(SHARES, 1e-9)
        self._prose = {domain: self._joined(texts[domain]) for domain in ("story", "novel", "code", "multi")}
        self._tiny = [self._encode(text) for text in texts["tiny"]]
        self._tiny_texts = texts["tiny"]
        self._code = [text for text in texts["code"] if len(text) > 1000]
        self._chats: list[_Document] = []
        self._gaps: list[_Document] = []

    def batch(self, rows: int) -> list[NDArray]:
        """Tokens int64, weights float32 and document numbers int64, each [rows, length + 1]."""
        made = [self._row() for _ in range(rows)]
        return [np.stack([row[n] for row in made]) for n in range(3)]

    def _row(self) -> tuple[NDArray, NDArray, NDArray]:
        size = self.length + 1
        ids, weights, numbers = np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros(size, np.int64)
        at = number = 0
        while at < size:
            domain, document = self._next(size - at)
            count = len(document.ids)
            ids[at : at + count], weights[at : at + count] = document.ids, document.weights
            numbers[at : at + count] = number
            weights[at] = 0  # nothing predicts the first token of a document
            self._drawn[domain] += count
            at, number = at + count, number + 1
        return ids, weights, numbers

    def _next(self, room: int) -> tuple[str, _Document]:
        """The domain that lags most behind its share, and a document of it that fits."""
        total = sum(self._drawn.values())
        lag = {d: share * total - self._drawn[d] + self._random.random() * 600 for d, share in SHARES.items()}
        domain = max(lag, key=lambda d: lag[d])
        if domain == "chat":
            if not self._chats:
                self._refill()
            for n in range(len(self._chats) - 1, max(-1, len(self._chats) - 1 - _TRIES), -1):
                if len(self._chats[n].ids) <= room:
                    return domain, self._chats.pop(n)
            domain = self._random.choice(("tiny", "story", "novel", "multi"))
        return domain, self._prose_document(domain, room)

    def _prose_document(self, domain: str, room: int) -> _Document:
        if domain == "code" and self._gaps and self._random.random() < 0.45:
            gap = self._gaps.pop()
            return _Document(gap.ids[:room], gap.weights[:room])
        if domain == "tiny":
            ids = np.concatenate(([BOS], self._random.choice(self._tiny), [END_OF_TEXT]))[:room]
        else:
            text = self._prose[domain]
            count = min(room, self._random.randint(150, max(150, self.length))) - 1
            first = self._random.randrange(len(text) - count)
            ids = np.concatenate(([BOS], text[first : first + count]))
        return _Document(ids.astype(np.int64), np.full(len(ids), PROSE, np.float32))

    def _refill(self) -> None:
        """New conversations, and code with gaps."""
        self._refills += 1
        many = max(3, self.length // 128)  # tasks of one conversation
        chats = samples(
            f"{self._seed}.{self._refills}", "train", _REFILL, 0.3, most_joined=many, any_words=self._any_words
        )
        made = [*chats, *self._continuations(_REFILL // 40)]
        texts: list[str] = []
        owners: list[tuple[int, bool]] = []
        for n, sample in enumerate(made):
            for text, written in pieces_of(sample):
                texts.append(text)
                owners.append((n, written))
        ids: list[list[int]] = [[] for _ in made]
        weights: list[list[float]] = [[] for _ in made]
        for encoding, (n, written) in zip(
            self.tokenizer.encode_batch(texts, add_special_tokens=False), owners, strict=True
        ):
            ids[n] += encoding.ids
            weights[n] += [ANSWER if written else PROMPT] * len(encoding.ids)
        documents = [
            _Document(np.array(i, np.int64), np.array(w, np.float32)) for i, w in zip(ids, weights, strict=True)
        ]
        self._chats = [d for d in documents if len(d.ids) <= self.length]
        self._random.shuffle(self._chats)
        self._gaps = list(self._code_with_gaps(_REFILL // 25))

    def _continuations(self, count: int) -> Iterator[Sample]:
        """Real stories, cut after a sentence."""
        for _ in range(count):
            text = self._random.choice(self._tiny_texts)
            ends = [m.end() for m in re.finditer(r"[.!?]\"? ", text[: len(text) // 2 + 1])]
            if ends and len(text) < 1600:
                cut = self._random.choice(ends)
                question = (
                    self._random.choice(("Continue this story: ", "Continue the story.\n\n")) + text[:cut].strip()
                )
                yield Sample("story", text[cut:].strip(), "story", [], [user(question)])

    def _code_with_gaps(self, count: int) -> Iterator[_Document]:
        """Fill-in-the-middle on real code, mostly of whole lines."""
        for _ in range(count):
            source = self._random.choice(self._code)
            start = source.find("\n", self._random.randrange(max(1, len(source) - 900))) + 1
            part = source[start : start + self._random.randint(250, 800)]
            if len(part) < 20:
                continue
            a, b = sorted(self._random.sample(range(len(part) + 1), 2))
            if self._random.random() < 0.7:
                a = part.rfind("\n", 0, a) + 1
                b = part.find("\n", min(a + self._random.randint(5, 160), len(part))) + 1 or len(part)
            text = f"<|startoftext|><|fim_pre|>{part[:a]}<|fim_suf|>{part[b:]}<|fim_mid|>{part[a:b]}<|im_end|>"
            ids = self._encode(text)
            yield _Document(ids, np.full(len(ids), PROSE, np.float32))

    def _joined(self, texts: list[str]) -> NDArray[np.int64]:
        parts = self.tokenizer.encode_batch([t for t in texts if len(t) > 200], add_special_tokens=False)
        return np.concatenate([np.array([*part.ids, END_OF_TEXT], np.int64) for part in parts])

    def _encode(self, text: str) -> NDArray[np.int64]:
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
