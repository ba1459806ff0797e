"""The output of /v1/messages: blocks that grow while the model answers, and the events that tell of them.

Knows nothing of requests; the same blocks make up an answer that is sent whole.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from edge_lfm.api import Completion, Event, Reasoning, Text, ToolCall

Json = dict[str, Any]
Named = tuple[str, Json]


def blocks_of(completion: Completion, tells_thoughts: bool) -> list[Json]:
    """The blocks of a whole answer: those that its stream would have told."""
    blocks: list[Json] = []
    if completion.reasoning and tells_thoughts:
        blocks.append({"type": "thinking", "thinking": completion.reasoning, "signature": ""})
    if completion.text:
        blocks.append({"type": "text", "text": completion.text})
    return [*blocks, *(_call(call) for call in completion.tool_calls)]


def ending_of(completion: Completion) -> Json:
    """Why an answer ended."""
    reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
    reason = "stop_sequence" if completion.stopped_by else "end_turn"
    return {
        "stop_reason": reasons.get(completion.finish_reason, reason),
        "stop_sequence": completion.stopped_by or None,
    }


def usage_of(completion: Completion) -> Json:
    """Token counts; what was kept of earlier prompts is counted apart from the rest of the prompt."""
    t = completion.timings
    return {
        "input_tokens": t.prompt_tokens - t.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": t.cached_tokens,
        "output_tokens": t.completion_tokens,
    }


class Blocks:
    """The events of an answer, block by block."""

    def __init__(self, tells_thoughts: bool) -> None:
        self._tells_thoughts = tells_thoughts
        self._count = 0
        self._open = ""  # the type of the block that is being told

    def tell(self, event: Event) -> list[Named]:
        """The events of what has come."""
        match event:
            case Text(text):
                return [*self._begin("text", {"text": ""}), self._delta("text_delta", text=text)]
            case Reasoning(text) if self._tells_thoughts:
                begun = self._begin("thinking", {"thinking": "", "signature": ""})
                return [*begun, self._delta("thinking_delta", thinking=text)]
            case ToolCall():
                call = _call(event)
                arguments = msgspec.json.encode(call["input"]).decode()
                begun = [*self.end_block(), *self._begin("tool_use", call | {"input": {}})]
                return [*begun, self._delta("input_json_delta", partial_json=arguments), *self.end_block()]
        return []

    def end_block(self) -> list[Named]:
        """End the block that is open, if one is."""
        if not self._open:
            return []
        self._open, self._count = "", self._count + 1
        return [named("content_block_stop", index=self._count - 1)]

    def _begin(self, kind: str, empty: Json) -> list[Named]:
        if self._open == kind:
            return []
        ended, self._open = self.end_block(), kind
        return [*ended, named("content_block_start", index=self._count, content_block={"type": kind, **empty})]

    def _delta(self, kind: str, **data: Any) -> Named:
        return named("content_block_delta", index=self._count, delta={"type": kind, **data})


def named(kind: str, **data: Any) -> Named:
    """An event under its name, which it also has inside."""
    return kind, {"type": kind, **data}


def _call(call: ToolCall) -> Json:
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": call.name, "input": call.arguments}
