"""Harmony, as gpt-oss writes it: an answer is messages, each with a header that names its channel and its recipient.

`analysis` is reasoning, `final` the answer, `commentary` a word before calls; a message to a tool is a call, whatever
its channel. The recipient stands behind the role or behind the channel: models write both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edge_lfm.errors import ToolCallError
from edge_lfm.text.dialects.dialect import Call, Channels, Marked, Parameters
from edge_lfm.text.dialects.json_calls import MAX_TEXT, read_arguments
from edge_lfm.text.dialects.rules import Rules, quoted
from edge_lfm.text.tool_binding import BoundTool

_CONSTRAIN = "<|constrain|>"
_SPACE = "functions."
"""Before the names of an application's tools; those of the maker's own, as `browser.search`, have others."""
_PYTHON = "python"
"""The maker's own tool to which a model writes code, not JSON."""
_CALL_END = "<|call|>"
_MAX_HEADER = 1000


@dataclass(frozen=True)
class Header:
    """What a message says of itself. to: who is to read it, if that is a tool."""

    role: str
    channel: str
    to: str | None


def read_header(text: str) -> Header:
    """A header, from behind the mark that begins its message to the one that ends it."""
    before, *behind = text.replace(_CONSTRAIN, " ").split(CHANNELS.channel)
    words = [word for part in (before, *behind) for word in part.split()]
    recipients = [word.removeprefix("to=") for word in words if word.startswith("to=")]
    role = next(iter(before.split()), "")
    channel = next(iter(behind[-1].split()), "") if behind else ""
    to = recipients[-1] if recipients and recipients[-1] not in ("", "assistant", "user", "all") else None
    return Header("" if role.startswith("to=") else role, channel, to)


def messages_grammar(tools: Sequence[BoundTool], mark: Marked, required: bool, formed: bool) -> str:
    """See `Channels.grammar`."""
    rules = Rules()
    start, channel, message = (mark(text) for text in (CHANNELS.start, CHANNELS.channel, CHANNELS.message))
    plain = ["analysis", *(() if formed else ("commentary",)), *(() if required else ("final",))]
    heads = [f"{channel} ({' | '.join(map(quoted, plain))}) {message}"]
    for tool in tools:
        body, to = rules.rule("body", _body(rules, tool, mark)), f" to={_SPACE}{tool.name}"
        heads.append(f'{quoted(to)} {channel} "commentary" {body}')
        heads.append(f"{channel} {quoted(f'commentary{to}')} {body}")
    return "\n".join([f'start: {start} "assistant" ({" | ".join(heads)})', *rules.lines])


CHANNELS = Channels(
    "<|start|>", "<|channel|>", "<|message|>", ("<|end|>", "<|return|>", _CALL_END), "<|end|>", messages_grammar,
    refused_switches={
        # Templates write every earlier call as one of a function, so that no conversation can go on behind such a call.
        "builtin_tools": "describe what stands for browser and python as functions of your own"
    },
)  # fmt: skip


@dataclass(frozen=True)
class Harmony:
    """The form; a `Dialect`."""

    call_start: str = CHANNELS.channel
    call_end: str = _CALL_END
    think_start: str = CHANNELS.channel
    think_end: str = CHANNELS.end
    inner_marks: tuple[str, ...] = (CHANNELS.start, CHANNELS.message, _CONSTRAIN, *CHANNELS.ends)
    frames: tuple[str, ...] = ()
    speaker: str = ""
    channels: Channels | None = CHANNELS

    def fits(self, template: str) -> bool:
        return all(mark in template for mark in (CHANNELS.start, CHANNELS.channel, CHANNELS.message))

    def openings(self, names: Sequence[str]) -> tuple[str, ...]:
        return ()  # without a header there is no call

    def read(self, text: str, parameters: Parameters) -> list[Call]:
        if len(text) > MAX_TEXT:
            raise ToolCallError(f"a tool call of {len(text)} characters")
        head, mark, body = text.partition(CHANNELS.message)
        to = read_header(head).to if mark and len(head) <= _MAX_HEADER else None
        if to is None or to == _SPACE:
            raise ToolCallError(f"the tool call cannot be read: {text!r:.60}")
        if to == _PYTHON:
            return [Call(to, {"code": body})]
        return [Call(to.removeprefix(_SPACE), read_arguments(body or "{}"))]

    def write(self, calls: Sequence[Call]) -> list[str]:
        return [f"{_head(c.name)}{json.dumps(c.arguments, ensure_ascii=False)}" for c in calls]

    def grammar(self, tools: Sequence[BoundTool], mark: Marked, parallel: bool) -> str:
        """One call: the mark that ends it ends the answer too."""
        rules = Rules()
        bodies = " | ".join(f"{quoted(tool.name)} {_body(rules, tool, mark)}" for tool in tools)
        return "\n".join([f"calls: {quoted(f'commentary to={_SPACE}')} ({bodies})", *rules.lines])


HARMONY = Harmony()


def _head(name: str) -> str:
    """A call up to its arguments, behind the mark in front of its channel."""
    return f"commentary to={_SPACE}{name} {_CONSTRAIN}json{CHANNELS.message}"


def _body(rules: Rules, tool: BoundTool, mark: Marked) -> str:
    """What follows the last name of a call's header: what the text is, the text, and its end."""
    kind = f'(" " {mark(_CONSTRAIN)} "json" | " json")?'
    return f"{kind} {mark(CHANNELS.message)} ({rules.json_object(tool.forms, tool.bound)}) {mark(_CALL_END)}"
