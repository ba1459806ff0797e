"""Conversations as lists of messages: checked, and with examples and documents put in.

Knows roles and texts; does not know how a template writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_lfm.api.options import Examples, Messages, Prompt
from edge_lfm.checking import shown
from edge_lfm.errors import ContextOverflowError, TemplateError, UsageError
from edge_lfm.text.documents import Document, shortened, write_documents

ROLES = ("system", "user", "assistant", "tool")
_FORM = 'a message is {"role": "user", "content": "..."}'


def as_messages(prompt: Prompt, system: str | None = None) -> Messages:
    """Messages from a user's text, or checked and as they are; the system message in front.

    Raises:
        UsageError: it is neither.
        TemplateError: a message has an unknown role, or no content.
    """
    messages: Messages = [{"role": "system", "content": system}] if system else []
    return messages + ([{"role": "user", "content": prompt}] if isinstance(prompt, str) else check_messages(prompt))


def check_messages(messages: Any) -> Messages:
    """The same, if each is a message. A content is a text, or what the model's template makes of lists and mappings.

    Raises:
        UsageError: it is no list.
        TemplateError: a message has an unknown role, or no content.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes | bytearray):
        raise UsageError(f"messages are {shown(messages)}", hint=f"give a list; {_FORM}")
    for n, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TemplateError(f"message {n} is {shown(message)}", hint=_FORM)
        role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
        if not isinstance(role, str) or role not in ROLES:
            raise TemplateError(f"message {n} has the unknown role {shown(role)}", hint=f"use {', '.join(ROLES)}")
        if not isinstance(calls, list | tuple | Mapping | None):
            raise TemplateError(f"the tool_calls of message {n} are {shown(calls)}", hint="give a list")
        if content is None and not calls:
            raise TemplateError(f"message {n} has no content", hint=_FORM)
        if not isinstance(content, str | list | tuple | Mapping | None):
            raise TemplateError(f"the content of message {n} is {shown(content)}", hint="give a text")
    return list(messages)


def with_examples(messages: Messages, examples: Examples) -> Messages:
    """Examples as turns before the first of the conversation."""
    turns: Messages = []
    for asked, answered in examples:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    head = system_messages(messages)
    return [*messages[:head], *turns, *messages[head:]]


def with_documents(messages: Messages, documents: Sequence[Document], cite: bool) -> Messages:
    """Documents at the end of the system message.

    Raises:
        UsageError: the system message is no text.
    """
    text, head = write_documents(documents, cite), system_messages(messages)
    before = (messages[0].get("content") or "") if head else ""
    if not isinstance(before, str):
        raise UsageError("documents need a system message that is a text", hint="give its content as a string")
    return [{"role": "system", "content": f"{before}\n\n{text}" if head else text}, *messages[head:]]


def ids_within(encode: Callable[[], list[int]], room: int) -> list[int] | None:
    """The ids of a prompt if they are at most `room`; None if they are more, or too many to be made at all."""
    try:
        ids = encode()
    except ContextOverflowError:
        return None
    return ids if len(ids) <= room else None


def trim(
    documents: Sequence[Document], fill: Callable[[Sequence[Document]], list[int]], room: int
) -> tuple[list[Document], list[str]]:
    """Documents cut to one length, the largest at which their prompt fits into `room` tokens; ids of those cut.

    Raises:
        ContextOverflowError: it does not fit even without their texts.
    """
    if ids_within(lambda: fill(documents), room) is not None:
        return list(documents), []
    low, high = 0, max(len(d.text) for d in documents)  # low fits, high does not
    if ids_within(lambda: fill(shortened(documents, 0)[0]), room) is None:
        raise ContextOverflowError("the question does not fit beside the documents", hint="give fewer documents")
    while high - low > 1:
        middle = (low + high) // 2
        fits = ids_within(lambda n=middle: fill(shortened(documents, n)[0]), room) is not None  # type: ignore[misc]
        low, high = (middle, high) if fits else (low, middle)
    return shortened(documents, low)


def system_messages(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many system messages stand in front: one or none."""
    return 1 if messages and messages[0].get("role") == "system" else 0
