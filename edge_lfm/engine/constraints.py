"""Which tokens may come: those of a grammar, from the start, inside tool calls only, or after the reasoning; none that
completes a forbidden sequence; no end too early. Each wraps the next; a sampler sees one.

A constraint says which tokens may come next (None: any), hears which one came, and may know some in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import GrammarError


class Constraint(Protocol):
    """What a sampler asks."""

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, and nothing may follow."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next [vocab]; None: any."""

    def accept(self, token: int) -> None:
        """Note that a token was taken."""

    def forced(self, limit: int) -> list[int]:
        """The next tokens, as far as there is no choice; they are taken."""


class InCalls:
    """Free text until a call begins; then the calls' grammar to its end.

    start_id: the token that begins calls. required: the answer must begin with it, and ends with the calls. single: it
    comes once.
    """

    def __init__(
        self, make: Callable[[], Constraint], start_id: int, vocab: int, required: bool, single: bool = False
    ) -> None:
        self._make, self._start_id, self._vocab, self._required = make, start_id, vocab, required
        self._single = single
        self._inner: Constraint | None = None
        self._done = False

    @property
    def ended(self) -> bool:
        return self._required and self._done

    def allowed(self) -> NDArray[np.bool_] | None:
        if self._inner is not None:
            return self._inner.allowed()
        if self._done and self._single:
            return ~only(self._start_id, self._vocab)
        return only(self._start_id, self._vocab) if self._required else None

    def accept(self, token: int) -> None:
        if self._inner is not None:
            self._inner.accept(token)
            self._leave()
        elif token == self._start_id:
            self._inner = self._make()

    def forced(self, limit: int) -> list[int]:
        if self._inner is None:
            return []
        tokens = self._inner.forced(limit)
        self._leave()
        return tokens

    def _leave(self) -> None:
        if self._inner is not None and self._inner.ended:
            self._inner, self._done = None, True


class CallsOr:
    """Calls and nothing else, if the answer begins with the token that begins them; else a form, without that token.

    calls: from that token on, and required.
    """

    def __init__(self, calls: InCalls, form: Constraint, start_id: int) -> None:
        self._calls, self._form, self._start_id = calls, form, start_id
        self._chosen: Constraint | None = None

    @property
    def ended(self) -> bool:
        return self._chosen is not None and self._chosen.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        if self._chosen is not None:
            return self._chosen.allowed()
        form = self._form.allowed()
        if form is not None:
            form = form.copy()
            form[self._start_id] = True
        return form

    def accept(self, token: int) -> None:
        if self._chosen is None:
            self._chosen = self._calls if token == self._start_id else self._form
        self._chosen.accept(token)

    def forced(self, limit: int) -> list[int]:
        return self._chosen.forced(limit) if self._chosen is not None else []


class AfterReasoning:
    """Free reasoning up to its end, which comes after `budget` tokens at the latest; then the inner constraint, if any.

    open: whether the prompt has begun the reasoning already; otherwise the answer may begin with it. ends: tokens that
    would end the answer, which may not come within reasoning that something must follow.
    """

    def __init__(
        self,
        inner: Constraint | None,
        start_id: int,
        end_id: int,
        vocab: int,
        open: bool,
        budget: int | None,
        ends: Sequence[int] = (),
    ) -> None:
        self._inner, self._start_id, self._end_id, self._vocab = inner, start_id, end_id, vocab
        self._going_on = without(ends, vocab) if ends else None
        self._open, self._budget = open, budget
        self._first, self._spent = not open, 0

    @property
    def ended(self) -> bool:
        return not self._open and not self._first and self._inner is not None and self._inner.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        if self._open:
            over = self._budget is not None and self._spent >= self._budget
            return only(self._end_id, self._vocab) if over else self._going_on
        inner = self._inner.allowed() if self._inner is not None else None
        if self._first and inner is not None:
            inner = inner.copy()
            inner[self._start_id] = True
        return inner

    def accept(self, token: int) -> None:
        first, self._first = self._first, False
        if self._open:
            self._spent += 1
            self._open = token != self._end_id
        elif first and token == self._start_id:
            self._open = True
        elif self._inner is not None:
            self._inner.accept(token)

    def forced(self, limit: int) -> list[int]:
        return self._inner.forced(limit) if self._inner is not None and not self._open and not self._first else []


class Without:
    """The inner constraint, if any, without tokens that complete one of the sequences in the answer.

    Only the last token of a sequence is forbidden, and only behind the others (vLLM's bad_words).
    """

    def __init__(self, inner: Constraint | None, sequences: Iterable[Sequence[int]], vocab: int) -> None:
        self._inner, self._vocab = inner, vocab
        self._lasts: dict[tuple[int, ...], list[int]] = {}  # by the tokens before them
        for *before, last in sequences:
            self._lasts.setdefault(tuple(before), []).append(last)
        self._lengths = sorted({len(before) for before in self._lasts})
        self._tail: list[int] = []

    @property
    def ended(self) -> bool:
        return self._inner is not None and self._inner.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next [vocab].

        Raises:
            GrammarError: the sequences forbid all that the grammar allows.
        """
        inner = self._inner.allowed() if self._inner is not None else None
        tails = (tuple(self._tail[len(self._tail) - n :]) for n in self._lengths if n <= len(self._tail))
        forbidden = [last for tail in tails for last in self._lasts.get(tail, ())]
        if not forbidden:
            return inner
        mask = _copy(inner, self._vocab)
        mask[forbidden] = False
        if not mask.any():
            raise GrammarError("bad_words forbid every token that may come here", hint="leave some of them out")
        return mask

    def accept(self, token: int) -> None:
        self._tail = [*self._tail, token][-max(1, self._lengths[-1]) :]
        if self._inner is not None:
            self._inner.accept(token)

    def forced(self, limit: int) -> list[int]:
        return []  # what a grammar leaves no choice about may be forbidden


class NotYet:
    """The inner constraint, if any, without the tokens that end an answer, for `count` tokens.

    Where it leaves nothing but an end, as a grammar that is complete, the answer ends.
    """

    def __init__(self, inner: Constraint | None, ends: Sequence[int], vocab: int, count: int) -> None:
        self._inner, self._ends, self._vocab, self._left = inner, list(ends), vocab, count

    @property
    def ended(self) -> bool:
        return self._inner is not None and self._inner.ended

    def allowed(self) -> NDArray[np.bool_] | None:
        inner = self._inner.allowed() if self._inner is not None else None
        if self._left <= 0:
            return inner
        mask = _copy(inner, self._vocab)
        mask[self._ends] = False
        return mask if mask.any() else inner

    def accept(self, token: int) -> None:
        self._left -= 1
        if self._inner is not None:
            self._inner.accept(token)

    def forced(self, limit: int) -> list[int]:
        tokens = self._inner.forced(limit) if self._inner is not None else []
        self._left -= len(tokens)
        return tokens


def _copy(mask: NDArray[np.bool_] | None, vocab: int) -> NDArray[np.bool_]:
    return np.ones(vocab, np.bool_) if mask is None else mask.copy()


def only(token: int, vocab: int) -> NDArray[np.bool_]:
    """A mask that lets one token through."""
    mask = np.zeros(vocab, np.bool_)
    mask[token] = True
    return mask


def without(tokens: Iterable[int], vocab: int) -> NDArray[np.bool_]:
    """A mask that lets all tokens through but these."""
    mask = np.ones(vocab, np.bool_)
    mask[[token for token in tokens if token < vocab]] = False
    return mask
