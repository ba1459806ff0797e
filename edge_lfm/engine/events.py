"""What comes while an answer is made, and the answer as a whole. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_lfm.engine.generate import Timings
from edge_lfm.engine.sampling import TokenLogprobs
from edge_lfm.text.documents import Citation


@dataclass(frozen=True)
class Progress:
    """Of the prompt: tokens read so far (`cached` of them not anew), and in all."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True)
class Text:
    """The next part of the answer; never half a character. logprobs: of the tokens that it is made of."""

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Reasoning:
    """The next part of what a model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for; the application makes it."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Completion:
    """A finished answer.

    finish_reason: "stop" (the model ended, or a stop string came), "tool_calls", or "length" (the limit or the context
        was reached).
    stopped_by: the stop string that ended it, if one did.
    logprobs: of every token of the answer, the one that ended it included, if asked for.
    text_logprobs: of the tokens that the text is made of, if asked for; those of calls and stop strings are not.
    prompt_logprobs: of every token of the prompt but the first, if asked for.
    problem: what was wrong with a call that broke its tool's schema, and is shown as text for that.
    citations: the documents that the text cites, and where.
    trimmed_documents: ids of documents that were cut because the context was full.
    dropped_messages: old messages that were left out because the context was full.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    timings: Timings
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    citations: tuple[Citation, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    text_logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    problem: str = ""
    reasoning_tokens: int = 0
    dropped_messages: int = 0
    trimmed_documents: tuple[str, ...] = ()
    stopped_by: str = ""

    @property
    def usage(self) -> dict[str, int]:
        """Token counts under OpenAI's names."""
        t = self.timings
        return {
            "prompt_tokens": t.prompt_tokens,
            "completion_tokens": t.completion_tokens,
            "total_tokens": t.prompt_tokens + t.completion_tokens,
            "cached_tokens": t.cached_tokens,
        }


@dataclass(frozen=True)
class Done:
    """The last event."""

    completion: Completion


Event = Progress | Text | Reasoning | ToolCall | Done
