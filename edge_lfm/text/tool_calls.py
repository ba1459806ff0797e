"""Tool calls in the form of a model's family: read from an answer, written into a conversation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from edge_lfm.text.dialects import PYTHONIC, Call, Channels, Dialect, Parameters
from edge_lfm.text.dialects.rules import quoted
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import BoundTool

__all__ = ["Call", "answer_grammar", "calls_grammar", "message_grammar", "parse_calls", "write_calls"]


def parse_calls(text: str, parameters: Parameters | None = None, dialect: Dialect = PYTHONIC) -> list[Call]:
    """The calls of the text between two marks.

    Raises:
        ToolCallError: it is none.
    """
    return dialect.read(text, parameters or {})


def write_calls(calls: Sequence[Call], dialect: Dialect = PYTHONIC) -> str:
    """The text of calls, as models of the family write it, without the marks."""
    return "\n".join(text.strip() for text in dialect.write(calls))


def calls_grammar(dialect: Dialect, tools: Sequence[BoundTool], tokenizer: Tokenizer, parallel: bool = True) -> str:
    """The Lark grammar of what may follow the token that begins calls, up to the last mark that ends them.

    parallel: several calls may come.
    """
    return f"start: calls\n{_rules(dialect, tools, tokenizer, parallel)}"


def answer_grammar(
    dialect: Dialect, tools: Sequence[BoundTool], tokenizer: Tokenizer, parallel: bool, required: bool
) -> str:
    """The Lark grammar of a whole answer with calls, for a vocabulary in which what begins them is a text.

    parallel: several calls may come. required: the answer is calls, and nothing else; if not, it is any text between.
    Of a form with frames, thoughts may come first, in which nothing is a call.
    """
    rules = _rules(dialect, tools, tokenizer, parallel)
    if dialect.frames:
        return f"{_framed(dialect, parallel, required)}\n{rules}"
    if required:
        return f"start: {quoted(dialect.call_start)} calls\n{rules}"
    begun = _escaped(dialect.call_start)
    times = "*" if parallel else "?"
    texts = f"lead[lazy]: /(?s:.*){begun}/\nTAIL: /(?s:.*)/ & ~/(?s:.*){begun}(?s:.*)/"
    return f"start: (lead calls){times} TAIL\n{texts}\n{rules}"


def _framed(dialect: Dialect, parallel: bool, required: bool) -> str:
    """The rules of an answer that may begin with thoughts, up to those of its calls."""
    begun, opens, closes = map(_escaped, (dialect.call_start, dialect.frames[0], dialect.frames[-1]))
    think, thought = map(_escaped, (dialect.think_start, dialect.think_end))
    if required:  # no text at all, be it white space: what stands around marks is none
        around = "\n".join([r"GAP: /\s{1,2}/", rf"OPEN: /{opens}\s{{0,2}}/", rf"CLOSE: /\s{{0,2}}{closes}/"])
        thoughts = f"thoughts[lazy]: /{think}(?s:.*){thought}/"
        return f"start: (thoughts GAP?)? OPEN? {quoted(dialect.call_start)} calls CLOSE?\n{around}\n{thoughts}"
    thoughts = rf"thoughts[lazy]: /\s*{think}(?s:.*){thought}/"
    unthought = rf"& ~/\s*{think}(?s:.*)/"
    texts = (
        f"FIRST: /(?s:.*){begun}/ {unthought}\nfirst[lazy]: FIRST\nlead[lazy]: /(?s:.*){begun}/\n"
        f"TAIL: /(?s:.*)/ & ~/(?s:.*){begun}(?s:.*)/\nPLAIN: /(?s:.*)/ & ~/(?s:.*){begun}(?s:.*)/ {unthought}"
    )
    more = "(thoughts | first calls) (lead calls)*" if parallel else "(thoughts (lead calls)? | first calls)"
    return f"start: {more} TAIL | PLAIN\n{texts}\n{thoughts}"


def _escaped(text: str) -> str:
    """A text as a regular expression of a Lark grammar has it."""
    return re.escape(text).replace("/", r"\/")


def message_grammar(
    channels: Channels, tools: Sequence[BoundTool], tokenizer: Tokenizer, required: bool, formed: bool
) -> str:
    """The Lark grammar of one message of an answer, up to its text, or of a whole call; see `Channels.grammar`."""
    return channels.grammar(tools, _mark_of(tokenizer), required, formed)


def _rules(dialect: Dialect, tools: Sequence[BoundTool], tokenizer: Tokenizer, parallel: bool) -> str:
    return dialect.grammar(tools, _mark_of(tokenizer), parallel)


def _mark_of(tokenizer: Tokenizer) -> Callable[[str], str]:
    """How a grammar says a mark: as a token, or as a text in vocabularies that have no such token."""

    def mark(text: str) -> str:
        token_id = tokenizer.special_id(text)
        return quoted(text) if token_id is None else f"<[{token_id}]>"

    return mark
