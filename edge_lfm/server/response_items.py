"""The output of /v1/responses: items that grow while the model answers, and the events that tell of them.

Knows nothing of requests; the same items make up an answer that is sent whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from edge_lfm.api import Completion, Done, Reasoning, Text, ToolCall
from edge_lfm.server.chat import tool_call_json

Json = dict[str, Any]
Named = tuple[str, Json]


def output_of(completion: Completion, namespaces: Mapping[str, str]) -> list[Json]:
    """The items of a whole answer: those that its stream would have told."""
    writer = Items({}, namespaces)
    for part in (Reasoning(completion.reasoning), Text(completion.text)):
        if part.text:
            writer.tell(part)
    for call in completion.tool_calls:
        writer.tell(call)
    writer.close_item()
    return writer.output


class Items:
    """The items of a response as they grow, and the events that tell of them. namespaces: of functions, where any."""

    def __init__(self, head: Json, namespaces: Mapping[str, str]) -> None:
        self.head, self.output, self._namespaces = head, list[Json](), namespaces
        self._open: Json | None = None
        self._text: list[str] = []
        self._number = 0

    def event(self, kind: str, **data: Any) -> Named:
        self._number += 1
        return kind, {"type": kind, "sequence_number": self._number - 1, **data}

    def tell(self, event: Any) -> list[Named]:
        match event:
            case Text(text):
                return [*self._begin("message"), self._event("response.output_text.delta", delta=text, logprobs=[])]
            case Reasoning(text):
                return [*self._begin("reasoning"), self._event("response.reasoning_text.delta", delta=text)]
            case ToolCall():
                return [*self.close_item(), *self._call(event)]
            case Done():
                return []
        return []

    def close_item(self) -> list[Named]:
        """End the item that is open."""
        item, self._open = self._open, None
        if item is None:
            return []
        text = "".join(self._text)
        kind = "output_text" if item["type"] == "message" else "reasoning_text"
        part = item["content"][0] | {"text": text}
        item |= {"content": [part], "status": "completed"}
        place = {"item_id": item["id"], "output_index": len(self.output) - 1}
        events = [self.event(f"response.{kind}.done", **place, content_index=0, text=text, logprobs=[])]
        if kind == "output_text":
            events.append(self.event("response.content_part.done", **place, content_index=0, part=part))
        return [*events, self.event("response.output_item.done", output_index=place["output_index"], item=item)]

    def _begin(self, kind: str) -> list[Named]:
        events: list[Named] = []
        if self._open is None or self._open["type"] != kind:
            events = self.close_item()
            self._open, self._text = _empty_item(kind), []
            self.output.append(self._open)
            shown = self._open | {"content": []}
            events.append(self.event("response.output_item.added", output_index=len(self.output) - 1, item=shown))
            if kind == "message":
                events.append(self._event("response.content_part.added", part=self._open["content"][0]))
        return events

    def _event(self, kind: str, **data: Any) -> Named:
        """An event of the open item's only part."""
        assert self._open is not None
        if "delta" in data:
            self._text.append(data["delta"])
        place = {"item_id": self._open["id"], "output_index": len(self.output) - 1, "content_index": 0}
        return self.event(kind, **place, **data)

    def _call(self, call: ToolCall) -> list[Named]:
        known = tool_call_json(call)
        item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "completed", "call_id": known["id"]}
        item |= known["function"]
        if call.name in self._namespaces:
            item["namespace"] = self._namespaces[call.name]
        self.output.append(item)
        index = len(self.output) - 1
        place = {"item_id": item["id"], "output_index": index}
        begun = item | {"arguments": "", "status": "in_progress"}
        return [
            self.event("response.output_item.added", output_index=index, item=begun),
            self.event("response.function_call_arguments.delta", **place, delta=item["arguments"]),
            self.event(
                "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
            ),
            self.event("response.output_item.done", output_index=index, item=item),
        ]


def _empty_item(kind: str) -> Json:
    if kind == "message":
        content: list[Json] = [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
        number = f"msg_{uuid.uuid4().hex}"
        return {"id": number, "type": kind, "role": "assistant", "status": "in_progress", "content": content}
    content = [{"type": "reasoning_text", "text": ""}]
    return {"id": f"rs_{uuid.uuid4().hex}", "type": kind, "summary": [], "status": "in_progress", "content": content}
