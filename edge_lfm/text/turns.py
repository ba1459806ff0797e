"""Conversations as a template can tell them: one that writes only the first system message, or only the first call of a
turn, or only tools in OpenAI's wrapping, says nothing when it leaves out the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from edge_lfm.errors import TemplateError

Message = Mapping[str, Any]
SYSTEM_ROLES = ("system", "developer")
PROBE_TOOL: dict[str, Any] = {
    "name": "probe_tool",
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
}
SYSTEMS: list[dict[str, Any]] = [{"role": "system", "content": "?"}, {"role": "system", "content": "probe_text"}]
TURNS: list[dict[str, Any]] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]


def with_one_system(messages: Sequence[Message]) -> list[Message]:
    """The same with the system messages at the front as one.

    Raises:
        TemplateError: another comes later.
    """
    count = next((n for n, m in enumerate(messages) if m.get("role") not in SYSTEM_ROLES), len(messages))
    late = next((n for n, m in enumerate(messages) if n >= count and m.get("role") in SYSTEM_ROLES), None)
    texts = [message.get("content") for message in messages[:count]]
    if late is not None or not all(isinstance(text, str) for text in texts):
        what = f"message {late}" if late is not None else "a system message in parts"
        raise TemplateError(f"the chat template leaves out {what}", hint="give one system message, in front, as text")
    front = [{**messages[0], "content": "\n\n".join(text for text in texts if text)}] if count else []  # type: ignore[misc]
    return [*front, *messages[count:]]


def with_single_calls(messages: Sequence[Message]) -> list[Message]:
    """The same with a turn for each call, and its result behind it: by its `tool_call_id`, or by its place."""
    turns: list[Message] = []
    at = 0
    while at < len(messages):
        message, at = messages[at], at + 1
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        if not isinstance(calls, list | tuple) or len(calls) < 2:
            turns.append(message)
            continue
        results: list[Message] = []
        while at < len(messages) and messages[at].get("role") == "tool":
            results.append(messages[at])
            at += 1
        for n, call in enumerate(calls):
            turns.append(
                {**(message if n == 0 else {"role": message.get("role"), "content": ""}), "tool_calls": [call]}
            )
            result = _result_of(call, results)
            turns += [result] if result is not None else []
        turns += results
    return turns


def with_results_in_order(messages: Sequence[Message]) -> list[Message]:
    """The same with the results of a turn's calls in the order of the calls, told by their `tool_call_id`: clients run
    calls together, and send the first result first. Results of which one names no call of the turn stay as they are."""
    turns: list[Message] = []
    places: dict[Any, int] = {}
    for asked, run in groupby(messages, lambda message: message.get("role") != "tool"):
        results = list(run)
        if not asked and all(str(result.get("tool_call_id")) in places for result in results):
            results.sort(key=lambda result: places[str(result["tool_call_id"])])
        turns += results
        calls = results[-1].get("tool_calls") if asked else None
        ids = [call.get("id") for call in calls if isinstance(call, Mapping)] if isinstance(calls, list | tuple) else []
        places = {number: n for n, number in enumerate(ids) if isinstance(number, str)}
    return turns


def _result_of(call: Any, results: list[Message]) -> Message | None:
    """The result of a call, taken from those that are left."""
    number = call.get("id") if isinstance(call, Mapping) else None
    named = [n for n, result in enumerate(results) if number and result.get("tool_call_id") == number]
    free = [n for n, result in enumerate(results) if not result.get("tool_call_id")]
    place = next(iter((*named, *free)), None)
    return results.pop(place) if place is not None else None


def wrapped(tools: Sequence[Any]) -> list[Any]:
    """Tools in OpenAI's wrapping, each with a description; those that are so already, as they are."""
    return [_wrapped(tool) if isinstance(tool, Mapping) else tool for tool in tools]


def _wrapped(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    wrapping, function = (tool, tool["function"]) if isinstance(tool.get("function"), Mapping) else ({}, tool)
    if wrapping and function.get("description") is not None:
        return tool
    return {"type": "function", **wrapping, "function": {**function, "description": function.get("description") or ""}}
