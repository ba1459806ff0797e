"""An answer that is messages with headers (harmony), sorted into text, reasoning and calls as its tokens come.

Marks are recognized by their token ids only: text that looks like one stays text. What the template has begun in the
prompt is read like the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from edge_lfm.text.dialects import Channels
from edge_lfm.text.dialects.harmony import Header, read_header
from edge_lfm.text.parts import Kind, Part, joined
from edge_lfm.text.shown import Shown
from edge_lfm.text.tokenizer import Decoder, Tokenizer

_BETWEEN = "\n\n"
"""Between two messages of one kind, which nothing else would keep apart."""


class Messages:
    """Where in an answer one is. Where the prompt begins no message, everything is text.

    head: ids of the header that is being read; None: a text is. header, kind: of that text.
    over: nothing may follow, for the last answer or call is complete, or somebody else's message begins.
    """

    def __init__(self, tokenizer: Tokenizer, channels: Channels, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.start, self.channel, self.message, *ends = map(tokenizer.special_id, channels.marks)
        self._ends = frozenset(ends)
        self.head: list[int] | None = None
        self.header, self.kind, self.over = Header("assistant", "", None), _kind_of(Header("", "", None)), False
        self.begun = begun_message(prompt, self.start)
        for token in self.begun:
            self.feed(token)
        self.over = False

    def feed(self, token: int) -> Literal["header", "begins", "text", "ends"]:
        """What a token is: part of a header, the mark behind it, part of a text, or the mark behind that."""
        told: Literal["header", "begins", "text", "ends"] = "header"
        if token == self.start or (self.head is None and token in self._ends):
            told = "header" if self.head is not None else "ends"
            closes = told == "ends" and token != self.start
            self.over = self.over or (closes and (self.kind == "call" or self.header.channel == "final"))
            self.head = []
        elif self.head is None:
            told = "text"
        elif token == self.message:
            told, self.header = "begins", read_header(self.head_text)
            self.head, self.kind = None, _kind_of(self.header)
            self.over = self.over or self.header.role not in ("", "assistant")
        else:
            self.head.append(token)
        return told

    @property
    def head_text(self) -> str:
        """The header as far as it has come."""
        return self._tokenizer.decode(self.head or [], special=True)


class ChannelParser:
    """Feed it tokens: as `AnswerParser`, for answers that are messages.

    stops: stop strings, heeded in text only. min_tokens: so many tokens come before one may end the answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        channels: Channels,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
    ) -> None:
        self._tokenizer, self._decoder, self._min_tokens = tokenizer, Decoder(tokenizer), min_tokens
        self._mark, self._messages = channels.message, Messages(tokenizer, channels, prompt)
        self._given = len(self._messages.head or ())
        self._shown = Shown(stops)
        self._call = Part("call", "")
        self._said: set[Kind] = set()  # what has come already
        self._new = True  # whether the text of a message has yet to begin
        self._halves: tuple[int, ...] = ()  # tokens of a character that is not complete
        self._count = self.reasoning_tokens = 0

    @property
    def stopped_by(self) -> str:
        """The stop string that has ended the answer; empty if none has."""
        return self._shown.stopped_by

    @property
    def ended(self) -> bool:
        """Whether the messages say that the answer is over, though no stop token does."""
        return self._messages.over and self._count >= self._min_tokens

    def feed(self, token_id: int) -> list[Part]:
        """What this token completes."""
        number, self._count = self._count, self._count + 1
        at, head = self._messages, self._messages.head_text
        self.reasoning_tokens += at.head is None and at.kind == "reasoning"
        told = at.feed(token_id)
        if told == "begins":
            self._new, self._call = True, Part("call", f"{head}{self._mark}")
        if told == "ends":
            return [*self._end_character(), *self._close("call")]
        if told != "text":
            return []
        text = self._decoder.feed(token_id)
        if not self._tokenizer.is_special(token_id):
            self._halves += (number,)
        return self._add(text, self._take_halves()) if text else []

    def finish(self) -> list[Part]:
        """What is left at the end: held-back text, half a character, a call that was cut off, text without a header."""
        parts = [*self._end_character(), *self._close("text")]
        head = self._messages.head or []
        if self._given and self._messages.begun and self._messages.channel not in head and not self._said:
            parts += self._add(self._tokenizer.decode(head[self._given :]), ())
        return [*parts, *self._shown.finish()]

    def _close(self, kind: Kind) -> list[Part]:
        """The call that has ended, as what it is."""
        call, self._call = self._call, Part("call", "")
        if self._messages.kind != "call" or not call.text:
            return []
        return [replace(call, kind="call")] if kind == "call" else self._show(replace(call, kind="text"))

    def _end_character(self) -> list[Part]:
        """U+FFFD for a character that was not completed."""
        text = self._decoder.finish()
        return self._add(text, self._take_halves()) if text else []

    def _take_halves(self) -> tuple[int, ...]:
        taken, self._halves = self._halves, ()
        return taken

    def _add(self, text: str, tokens: tuple[int, ...]) -> list[Part]:
        part = Part(self._messages.kind, text, tokens)
        if part.kind == "call":
            self._call = joined(self._call, part)
            return []
        if self._new and part.kind in self._said:
            part = replace(part, text=_BETWEEN + text)
        self._new = False
        self._said.add(part.kind)
        return [part] if part.kind == "reasoning" else self._show(part)

    def _show(self, part: Part) -> list[Part]:
        return self._shown.add(part, not part.tokens or part.tokens[-1] >= self._min_tokens)


def begun_message(prompt: Sequence[int], start_id: int | None) -> list[int]:
    """The end of a prompt from the last mark on that begins a message; empty if there is none."""
    last = next((n for n in reversed(range(len(prompt))) if prompt[n] == start_id), None)
    return [] if last is None else list(prompt[last:])


def _kind_of(header: Header) -> Kind:
    if header.to is not None:
        return "call"
    return "reasoning" if header.channel == "analysis" else "text"
