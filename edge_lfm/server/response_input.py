"""The input of /v1/responses: items, as clients send and keep them, and the messages that they are."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import Nested
from edge_lfm.server.messages import Call, Called, Part, join_parts

Json = dict[str, Any]


class Item(Nested):
    """An item of a response's input: a message, a call, its result, thoughts, or the id of an item that is kept.

    What else an earlier response told of it comes back: what state it was in, who called, the group of a function,
    thoughts that only their maker can read, arguments once more as objects.
    """

    harmless: ClassVar[frozenset[str]] = frozenset(
        {"status", "phase", "caller", "namespace", "created_by", "encrypted_content", "parsed_arguments", "metadata"}
    )

    type: Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"] = "message"
    id: str | None = None
    call_id: str | None = None
    summary: list[Part] | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[Part] | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


def as_item(item: Item | Json) -> Item:
    """An item, from its JSON too."""
    return item if isinstance(item, Item) else msgspec.convert(item, Item)


def add_item(messages: list[Json], item: Item, place: str) -> None:
    """One item more; a call joins the assistant's turn that it belongs to."""
    if item.type == "message":
        messages.append(_message_of(item, place))
    elif item.type == "function_call_output":
        messages.append({"role": "tool", "content": join_parts(item.output), "tool_call_id": item.call_id})
    else:
        if item.name is None:
            raise RequestError(f"{place} has no name", f"{place}.name")
        call = Call(Called(item.name, item.arguments), item.call_id).plain()
        if messages and messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"].append(call)
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _message_of(item: Item, place: str) -> Json:
    if item.role is None:
        raise RequestError(f"{place} has no role", f"{place}.role")
    role = "system" if item.role == "developer" else item.role
    return {"role": role, "content": join_parts(item.content)}
