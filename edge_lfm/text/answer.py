"""The tokens of an answer as they come, sorted into text, reasoning and tool calls.

Markers are recognized by their token ids: text that merely looks like a marker stays text. Only those that the model's
vocabulary has no tokens for are found by their spelling. Knows the marks of a dialect; does not read what a tool call
says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_lfm.text.dialects import PYTHONIC, Dialect
from edge_lfm.text.parts import Kind, Part, joined
from edge_lfm.text.shown import Shown
from edge_lfm.text.spelled_marks import SpelledMarks, ends_with_mark
from edge_lfm.text.tokenizer import Decoder, Tokenizer


class AnswerParser:
    """Feed it tokens. `markers`: sort by markers; if not, all is text.

    prompt: the ids before the answer, which may have opened the reasoning. stops: stop strings, heeded in text only.
    tools: names of tools: an answer that is nothing but a call, without markers, is a call too.
    min_tokens: so many tokens come before a stop string may end the answer.
    spelled: marks of the dialect that the vocabulary has no tokens for.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        markers: bool = True,
        tools: Sequence[str] = (),
        dialect: Dialect = PYTHONIC,
        min_tokens: int = 0,
        spelled: Sequence[str] = (),
    ) -> None:
        self._tokenizer, self._decoder, self._min_tokens = tokenizer, Decoder(tokenizer), min_tokens
        self._shown = Shown(stops)
        self._dialect, self._spelled, self._search = dialect, frozenset(spelled if markers else ()), SpelledMarks()
        marks = (dialect.call_start, dialect.call_end, dialect.think_start, dialect.think_end, *dialect.frames)
        self._marks = {tokenizer.special_id(mark): mark for mark in marks if markers}
        self._marks.pop(None, None)
        self._inner = {token: mark for mark in dialect.inner_marks if (token := tokenizer.special_id(mark)) is not None}
        self._kind: Kind = "text"
        self._call = Part("call", "")
        self._trim = False  # the whitespace that a marker leaves at the start of the text after it
        self._speaker, self._named = dialect.speaker, list[Part]()  # at the start of a text: what it may begin with
        self._gap: list[Part] | None = None  # white space after a call, which is none of the text if no text follows
        self._openings = dialect.openings(tools)
        self._bare: list[Part] | None = [] if tools else None  # text that may turn out to be a call without markers
        self._count = 0
        self._halves: tuple[int, ...] = ()  # tokens of a character that is not complete
        self.reasoning_tokens = 0
        begin, end = dialect.think_start, dialect.think_end
        opened = opens_reasoning(prompt, tokenizer.special_id(begin), tokenizer.special_id(end))
        if markers and (opened or (begin in self._spelled and ends_with_mark(prompt, begin, tokenizer))):
            self._kind, self._trim = "reasoning", True

    @property
    def stopped_by(self) -> str:
        """The stop string that has ended the answer; empty if none has."""
        return self._shown.stopped_by

    @property
    def ended(self) -> bool:
        """Whether the answer says that it is over; only a stop token or a stop string does."""
        return False

    def feed(self, token_id: int) -> list[Part]:
        """What this token completes."""
        number, self._count = self._count, self._count + 1
        if self._kind == "reasoning":
            self.reasoning_tokens += 1
        mark = self._marks.get(token_id)
        if mark is not None and (self._kind != "reasoning" or mark == self._dialect.think_end):
            return [*self._end_character(), *self._flush(), *self._cross(mark)]
        if self._kind == "call" and token_id in self._inner:  # the text of a call, be it that of a control token
            return [*self._end_character(), *self._sort(self._inner[token_id], (number,))]
        text = self._decoder.feed(token_id)
        if not self._tokenizer.is_special(token_id):
            self._halves += (number,)
        return self._sort(text, self._take_halves()) if text else []

    def finish(self) -> list[Part]:
        """What is left at the end: held-back text, half a character, a tool call that was cut off (as text)."""
        parts = [*self._end_character(), *self._flush()]
        if self._kind == "call" and self._call.text:
            parts.append(replace(self._call, kind="text"))
        return [*parts, *self._end_named(), *self._end_bare(), *self._shown.finish()]

    def _end_bare(self, closed: bool = True) -> list[Part]:
        """Text that may be a call without markers: it is one if nothing follows, or the mark that ends calls."""
        held, self._bare = self._bare, None
        if not held:
            return []
        whole = joined(*held)
        is_call = closed and whole.text.strip().startswith(self._openings)
        return [replace(whole, kind="call" if is_call else "text")]

    def _cross(self, mark: str) -> list[Part]:
        """What a mark ends. While the model reasons, only the end of that is one."""
        parts = self._end_named()
        parts += self._end_bare(closed=mark in (self._dialect.call_end, *self._dialect.frames[1:]))
        if self._kind == "call" and self._call.text:
            parts.append(self._call if mark == self._dialect.call_end else replace(self._call, kind="text"))
        self._call = Part("call", "")
        kinds: dict[str, Kind] = {self._dialect.call_start: "call", self._dialect.think_start: "reasoning"}
        self._kind = kinds.get(mark, "text")
        begins = (self._dialect.think_end, *self._dialect.frames)
        self._trim = mark in (self._dialect.think_start, *begins)
        self._gap = [] if mark == self._dialect.call_end else None
        self._bare = [] if mark in begins and self._openings else None
        self._speaker = self._dialect.speaker if mark in begins else ""
        return parts

    def _sort(self, text: str, tokens: tuple[int, ...]) -> list[Part]:
        """Text as it comes, which may spell marks."""
        if not self._spelled:
            return self._add(text, tokens)
        parts: list[Part] = []
        self._search.add(Part(self._kind, text, tokens))
        ends = {"reasoning": {self._dialect.think_end}, "call": {self._dialect.call_end}}
        mark: str | None = ""
        while mark is not None:
            before, mark = self._search.take(self._spelled & ends.get(self._kind, self._spelled))
            parts += [shown for part in before for shown in self._add(part.text, part.tokens)]
            parts += self._cross(mark) if mark is not None else []
        return parts

    def _flush(self) -> list[Part]:
        """Text that was held back and spells no mark."""
        return [shown for part in self._search.finish() for shown in self._add(part.text, part.tokens)]

    def _end_character(self) -> list[Part]:
        """U+FFFD for a character that was not completed."""
        text = self._decoder.finish()
        return self._sort(text, self._take_halves()) if text else []

    def _take_halves(self) -> tuple[int, ...]:
        taken, self._halves = self._halves, ()
        return taken

    def _add(self, text: str, tokens: tuple[int, ...]) -> list[Part]:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        if not text:
            return []
        part = Part(self._kind, text, tokens)
        if self._kind == "call":
            self._call = joined(self._call, part)
            return []
        if self._kind == "reasoning":
            return [part]
        return self._tell(part) if not self._speaker else self._unnamed(part)

    def _unnamed(self, part: Part) -> list[Part]:
        """The start of a text, without the speaker's name; held back while it may become that."""
        self._named.append(part)
        begun = joined(*self._named)
        if len(begun.text) < len(self._speaker) and self._speaker.startswith(begun.text):
            return []
        self._named, speaker, self._speaker = [], self._speaker, ""
        rest = begun.cut(len(speaker))[1] if begun.text.startswith(speaker) else begun
        return self._tell(rest) if rest.text else []

    def _end_named(self) -> list[Part]:
        held, self._named, self._speaker = self._named, [], ""
        return self._tell(joined(*held)) if held else []

    def _tell(self, part: Part) -> list[Part]:
        """Text as it is shown: not yet if it may be the white space after a call, or a call without its mark."""
        if self._gap is not None:
            self._gap.append(part)
            part = joined(*self._gap)
            if part.text.isspace():
                return []
            self._gap = None
        return [shown for text in self._hold(part) for shown in self._shown.add(text, self._may_end(text))]

    def _may_end(self, part: Part) -> bool:
        return not part.tokens or part.tokens[-1] >= self._min_tokens

    def _hold(self, part: Part) -> list[Part]:
        """Keep text back while all of it may be a call without markers."""
        if self._bare is None:
            return [part]
        self._bare.append(part)
        begun = joined(*self._bare).text.lstrip()
        if any(opening.startswith(begun) or begun.startswith(opening) for opening in self._openings):
            return []
        held, self._bare = self._bare, None
        return held


def opens_reasoning(prompt: Sequence[int], start_id: int | None, end_id: int | None) -> bool:
    """Whether a prompt ends inside reasoning."""
    last = next((i for i in reversed(prompt) if i in (start_id, end_id)), None)
    return start_id is not None and last == start_id
