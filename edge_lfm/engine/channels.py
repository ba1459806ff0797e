"""What the messages of an answer must be (harmony): headers and calls by a grammar, the last text by a form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.constraints import Constraint, only
from edge_lfm.text.channels import Messages
from edge_lfm.text.dialects import Channels
from edge_lfm.text.tokenizer import Tokenizer

_REASONING = b"analysis"


class InChannels:
    """Messages up to an answer or a call; a `Constraint`.

    make: the grammar of one message, up to its text or to the end of a call; None: headers are free. form: of the last
    text, if it has one. stays: no end of the answer may come before an answer or a call. budget: tokens of reasoning.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        channels: Channels,
        prompt: Sequence[int],
        vocab: int,
        make: Callable[[], Constraint] | None,
        form: Constraint | None,
        stays: bool,
        budget: int | None,
    ) -> None:
        self._tokenizer, self._vocab, self._make, self._form, self._budget = tokenizer, vocab, make, form, budget
        self._messages = Messages(tokenizer, channels, prompt)
        end = tokenizer.special_id(channels.end)
        self._end = -1 if end is None else end
        self._inside = _inside(tokenizer, self._end, vocab) if stays else None
        self._message: Constraint | None = None
        self._spent = 0
        for token in self._messages.begun:
            self._follow(token)

    @property
    def ended(self) -> bool:
        return self._messages.over or (self._in_form and self._form is not None and self._form.ended)

    def allowed(self) -> NDArray[np.bool_] | None:
        at = self._messages
        if at.head is not None:
            return self._of_header(at.head)
        if at.kind == "call":
            return self._message.allowed() if self._message is not None else self._inside
        if at.kind == "reasoning" and self._budget is not None and self._spent >= self._budget:
            return only(self._end, self._vocab)
        return self._form.allowed() if self._in_form and self._form is not None else self._inside

    def accept(self, token: int) -> None:
        at = self._messages
        if at.head is None and at.kind == "reasoning":
            self._spent += 1
        if self._in_form and self._form is not None:
            self._form.accept(token)
        self._follow(token)
        at.feed(token)

    def forced(self, limit: int) -> list[int]:
        at = self._messages
        if at.head is None and at.kind != "call":
            return self._form.forced(limit) if self._in_form and self._form is not None else []
        tokens = self._message.forced(limit) if self._message is not None else []
        for token in tokens:
            at.feed(token)
        return tokens

    @property
    def _in_form(self) -> bool:
        at = self._messages
        return at.head is None and at.kind == "text" and (at.header.channel == "final" or not at.begun)

    def _follow(self, token: int) -> None:
        """Keep the grammar of a message in step: it begins with the mark that begins one, and ends before its text."""
        if token == self._messages.start and self._make is not None:
            self._message = self._make()
        if self._message is not None and not self._message.ended:
            self._message.accept(token)

    def _of_header(self, head: list[int]) -> NDArray[np.bool_] | None:
        if self._make is None:
            mask = None
        elif self._message is None or self._message.ended:
            return only(self._messages.start or 0, self._vocab)
        else:
            mask = self._message.allowed()
        over = self._budget is not None and self._spent >= self._budget
        if over and head and head[-1] == self._messages.channel:
            begins = _beginning(self._tokenizer, self._vocab)
            mask = begins if mask is None else mask & begins
        return mask


@lru_cache(maxsize=4)
def _inside(tokenizer: Tokenizer, end: int, vocab: int) -> NDArray[np.bool_]:
    """What may stand in a text that is not the last one [vocab]: no control token but the one that ends it."""
    mask = ~np.fromiter((tokenizer.is_control(i) for i in range(vocab)), np.bool_, vocab)
    if 0 <= end < vocab:
        mask[end] = True
    return mask


@lru_cache(maxsize=1)
def _beginning(tokenizer: Tokenizer, vocab: int) -> NDArray[np.bool_]:
    """What may stand behind the mark before a channel where reasoning is used up [vocab]."""
    texts = ((i, tokenizer.bytes_of(i)) for i in range(vocab))
    begin = [i for i, text in texts if text and (_REASONING.startswith(text) or text.startswith(_REASONING))]
    mask = np.ones(vocab, np.bool_)
    mask[begin] = False
    return mask
