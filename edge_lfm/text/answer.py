"""The tokens of an answer as they come, sorted into text, reasoning and tool calls.

Markers are recognized by their token ids, never by spelling: text that merely looks like a marker stays text. Knows
the family's markers; does not read what a tool call says (`tool_calls.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_lfm.text.stops import StopStrings
from edge_lfm.text.tokenizer import Decoder, Tokenizer

CALL_START, CALL_END = "<|tool_call_start|>", "<|tool_call_end|>"
THINK_START, THINK_END = "<think>", "</think>"


@dataclass(frozen=True)
class Piece:
    """Some text of an answer; a `call` comes whole, the other kinds as they grow."""

    kind: Literal["text", "reasoning", "call"]
    text: str


class AnswerParser:
    """Feed it tokens. `markers`: sort by markers; if not, all is text.

    prompt: the ids before the answer, which may have opened the reasoning. stops: stop strings, heeded in text only.
    tools: names of tools: an answer that is nothing but `[name(...)]`, without markers, is a call too.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        markers: bool = True,
        tools: Sequence[str] = (),
    ) -> None:
        self._decoder = Decoder(tokenizer)
        self._stops = StopStrings(stops)
        names = (CALL_START, CALL_END, THINK_START, THINK_END)
        ids = [tokenizer.special_id(name) if markers else None for name in names]
        self._call_start, self._call_end, self._think_start, self._think_end = ids
        self._kind: Literal["text", "reasoning", "call"] = "text"
        self._call: list[str] = []
        self._trim = False  # the whitespace that a marker leaves at the start of the text after it
        self._openings = tuple(f"[{name}(" for name in tools)
        self._bare: str | None = "" if tools else None  # text that may turn out to be a call without markers
        self.reasoning_tokens = 0
        if opens_reasoning(prompt, self._think_start, self._think_end):
            self._kind, self._trim = "reasoning", True

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._stops.found is not None

    def feed(self, token_id: int) -> list[Piece]:
        """What this token completes."""
        if self._kind == "reasoning":
            self.reasoning_tokens += 1
        if token_id is not None and token_id in (self._call_start, self._call_end, self._think_start, self._think_end):
            return self._cross(token_id)
        return self._add(self._decoder.feed(token_id))

    def finish(self) -> list[Piece]:
        """What is left at the end: held-back text, half a character, a tool call that was cut off (as text)."""
        pieces = self._add(self._decoder.finish())
        if self._kind == "call" and self._call:
            pieces.append(Piece("text", "".join(self._call)))
        if self._bare:
            pieces.append(Piece("call" if self._bare.strip().startswith(self._openings) else "text", self._bare))
        rest = self._stops.finish()
        return [*pieces, Piece("text", rest)] if rest else pieces

    def _cross(self, marker: int) -> list[Piece]:
        pieces = self._add(self._decoder.finish())
        if self._bare:  # other things come: it was text
            pieces.append(Piece("text", self._bare))
        self._bare = None
        if self._kind == "call" and self._call:
            pieces.append(Piece("call" if marker == self._call_end else "text", "".join(self._call)))
        self._call.clear()
        self._kind = {self._call_start: "call", self._think_start: "reasoning"}.get(marker, "text")  # type: ignore[assignment]
        self._trim = marker in (self._think_start, self._think_end)
        return pieces

    def _add(self, text: str) -> list[Piece]:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        if self._kind == "call":
            self._call.append(text)
            return []
        if self._kind == "text":
            text = self._stops.feed(self._hold(text))
        return [Piece(self._kind, text)] if text else []

    def _hold(self, text: str) -> str:
        """Keep text back while all of it may be a call without markers."""
        if self._bare is None:
            return text
        self._bare += text
        begun = self._bare.lstrip()
        if any(opening.startswith(begun) or begun.startswith(opening) for opening in self._openings):
            return ""
        text, self._bare = self._bare, None
        return text


def opens_reasoning(prompt: Sequence[int], start_id: int | None, end_id: int | None) -> bool:
    """Whether a prompt ends inside reasoning."""
    last = next((i for i in reversed(prompt) if i in (start_id, end_id)), None)
    return start_id is not None and last == start_id
