"""Chat messages to prompt text, through the Jinja template of the model, in a sandbox.

The text of messages is data: spellings of special tokens inside it are broken apart before rendering
(`shield`) and encoded as plain text, so no content can open a turn or a call. Knows no token ids but
through the tokenizer that is given.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_lfm.errors import TemplateError
from edge_lfm.text.answer import CALL_END, CALL_START
from edge_lfm.text.deadline import deadline
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_calls import Call, write_calls

Message = Mapping[str, Any]
_MOST_TEXT = 16_000_000  # characters of a rendered prompt; far above any context
_MOST_SECONDS = 5.0
"""A conversation of 30,000 tokens is rendered in 1 ms; only a template that loops comes here."""
_GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


class ChatTemplate:
    """A compiled template.

    Raises:
        TemplateError: the template is not valid Jinja.
    """

    def __init__(self, source: str, bos: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        self._bos = bos
        self.source = source
        self.renders_calls = "tool_calls" in source
        """Whether it writes an assistant's calls itself; older ones leave that to the content."""
        try:
            self._template = environment.from_string(_GENERATION_TAG.sub("", source))
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"the chat template is broken: {error}", hint="check chat_template.jinja") from None

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template of a model folder, from its own file or from the tokenizer's settings; None if it has none."""
        path = folder / "chat_template.jinja"
        source = path.read_text(encoding="utf-8") if path.exists() else tokenizer.settings.get("chat_template")
        if isinstance(source, list):
            source = next((item.get("template") for item in source if item.get("name") == "default"), None)
        return cls(source, tokenizer.bos) if isinstance(source, str) else None

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None, add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation, as text.

        Raises:
            TemplateError: there are no messages, one is malformed, or the template refuses them.
        """
        _check(messages)
        try:
            with deadline(_MOST_SECONDS):
                return self._join(
                    messages=[dict(m) for m in messages],
                    tools=list(tools) if tools else None,
                    bos_token=self._bos,
                    add_generation_prompt=add_generation_prompt,
                )
        except TimeoutError as error:
            raise TemplateError(f"the chat template does not end: {error}", hint="check chat_template.jinja") from None
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, RecursionError, OverflowError, MemoryError) as e:
            raise TemplateError(
                f"the chat template refuses these messages: {e}", hint="check roles and contents"
            ) from None

    def encode(
        self,
        messages: Sequence[Message],
        tokenizer: Tokenizer,
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The prompt of a conversation as token ids; special tokens only where the template wrote them.

        An assistant's `tool_calls` (OpenAI's form) are rendered by the template, or put in front of its content.
        """
        shield = _Shield(tokenizer)
        text = self.render(
            [self._with_calls(m, shield) for m in messages],
            tools=tools and [shield.cover(t) for t in tools],
            add_generation_prompt=add_generation_prompt,
        )
        return shield.encode(text)

    def _join(self, **variables: Any) -> str:
        parts, length = [], 0
        for part in self._template.generate(**variables):
            parts.append(part)
            length += len(part)
            if length > _MOST_TEXT:
                raise TemplateError("the rendered prompt is longer than any context", hint="send less text")
        return "".join(parts)

    def _with_calls(self, message: Message, shield: _Shield) -> Message:
        if not isinstance(message, Mapping) or not message.get("tool_calls"):
            return shield.cover(message)  # type: ignore[no-any-return]
        calls = _read_calls(message["tool_calls"])
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        covered = shield.cover({"content": "", **rest})
        covered["content"] = covered["content"] or ""
        if self.renders_calls:
            functions = [{"name": call.name, "arguments": shield.cover(call.arguments)} for call in calls]
            return {**covered, "tool_calls": [{"type": "function", "function": f} for f in functions]}
        return {**covered, "content": CALL_START + shield.cover(write_calls(calls)) + CALL_END + covered["content"]}


class _Shield:
    """Replaces spellings of special tokens in content by marks, and encodes those parts as plain text.

    Each has a mark of its own, for a template may render its parts in any order, some twice and some not at all.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._name = uuid.uuid4().hex
        self._covered: list[str] = []
        spellings = tokenizer.special_spellings()
        self._pattern = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def cover(self, value: Any) -> Any:
        """The same value, with every spelling of a special token in its strings marked."""
        if isinstance(value, str):
            return self._pattern.sub(self._take, value) if self._pattern else value
        if isinstance(value, Mapping):
            return {self.cover(k): self.cover(v) for k, v in value.items()}
        return [self.cover(v) for v in value] if isinstance(value, list | tuple) else value

    def _take(self, match: re.Match[str]) -> str:
        self._covered.append(match[0])
        return f"\ue000{self._name}.{len(self._covered) - 1}\ue001"

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for n, part in enumerate(re.split(rf"\ue000{self._name}\.(\d+)\ue001", text)):
            marked = n % 2 == 1
            ids += self._tokenizer.encode(self._covered[int(part)] if marked else part, special=not marked)
        return ids


def _read_calls(value: Any) -> list[Call]:
    """Calls in OpenAI's form: [{"function": {"name", "arguments": JSON text or an object}}]."""
    calls = []
    for item in value if isinstance(value, list | tuple) else [value]:
        function = item.get("function", item) if isinstance(item, Mapping) else None
        try:
            arguments = function["arguments"]  # type: ignore[index]
            arguments = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
            calls.append(Call(str(function["name"]), dict(arguments)))  # type: ignore[index]
        except (TypeError, KeyError, ValueError):
            raise TemplateError(
                "a message's tool_calls are malformed", hint='give [{"function": {"name": ..., "arguments": "{...}"}}]'
            ) from None
    return calls


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise TemplateError("there are no messages", hint="send at least one user message")
    for n, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TemplateError(f"message {n} has no role", hint='a message is {"role": "user", "content": "..."}')
        if "content" not in message and "tool_calls" not in message:
            raise TemplateError(f"message {n} has no content", hint='a message is {"role": "user", "content": "..."}')


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
