"""Chat messages to prompt text, through the Jinja template of the model, in a sandbox.

The text of messages is data: a control token is read as one only where the template wrote it (`written.py`), so no
content, name, role or key can open a turn or a call. Knows no token ids but through the tokenizer that is given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes

from edge_lfm.errors import EdgeLfmError, ModelFileError, TemplateError, UsageError
from edge_lfm.formats.strict import read_text
from edge_lfm.text.deadline import within
from edge_lfm.text.dialects import dialect_of
from edge_lfm.text.past_calls import THOUGHTS, CallForm, find_form, read_calls
from edge_lfm.text.spelled_marks import spelled_marks
from edge_lfm.text.tokenizer import TOKEN_NAMES, Tokenizer
from edge_lfm.text.turns import (
    PROBE_TOOL,
    SYSTEM_ROLES,
    SYSTEMS,
    TURNS,
    with_one_system,
    with_results_in_order,
    with_single_calls,
    wrapped,
)
from edge_lfm.text.written import TemplateEnvironment, Written, broken, parts_of

Message = Mapping[str, Any]
_MAX_TEXT = 16_000_000  # characters of a rendered prompt; far above any context
_MAX_SECONDS = 5.0
"""A conversation of 30,000 tokens is rendered in 20 ms; only a template that loops comes here."""
_GIVEN = ("messages", "tools", "add_generation_prompt", *TOKEN_NAMES)
"""Variables that every template gets, and nobody else gives."""
_MAX_BYTES = 1 << 20
"""Of a template's file; the longest published one has 20 kB."""
_BROKEN = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    SyntaxError,  # of the Python that Jinja makes: twenty levels of blocks are too many
    TimeoutError,
)


class ChatTemplate:
    """A compiled template.

    Raises:
        TemplateError: the template is not valid Jinja.
    """

    def __init__(self, source: str, bos: str, names: Mapping[str, str] | None = None) -> None:
        environment = TemplateEnvironment()
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        self._names = {name: Written.literal(text) for name, text in {**(names or {}), "bos_token": bos}.items()}
        self.source = source
        self.dialect = dialect_of(source)
        self.renders_calls = "tool_calls" in source
        """Whether it writes an assistant's calls itself; older ones leave that to the content."""
        try:
            # Constants are computed already here.
            self._template = within(_MAX_SECONDS, lambda: environment.from_string(source))
            self.switches = within(_MAX_SECONDS, lambda: _switches_of(environment.parse(source)))
            """Variables of its own that a request may set, as `enable_thinking`."""
        except (jinja2.TemplateError, *_BROKEN) as error:
            raise TemplateError(f"the chat template is broken: {error}", hint="check chat_template.jinja") from None

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template of a model folder, from its own file or from the tokenizer's settings; None if it has none."""
        path = folder / "chat_template.jinja"
        try:
            source = read_text(path, _MAX_BYTES) if path.exists() else tokenizer.settings.get("chat_template")
        except ModelFileError as error:
            raise TemplateError(error.message, error.hint) from None
        if isinstance(source, list):
            named = (item for item in source if isinstance(item, dict) and item.get("name") == "default")
            source = next((item.get("template") for item in named), None)
        template = cls(source, tokenizer.bos, tokenizer.named_tokens) if isinstance(source, str) else None
        channels = template.dialect.channels if template is not None else None
        missing = [mark for mark in channels.marks if tokenizer.special_id(mark) is None] if channels else []
        if missing:
            hint = "check chat_template.jinja and tokenizer.json"
            raise TemplateError(f"the chat template writes {missing[0]}, which is no token of the model", hint=hint)
        return template

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        switches: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation, as text.

        Raises:
            TemplateError: there are no messages, one is malformed, or the template refuses them.
            UsageError: the template has no such switch.
        """
        return str.__str__(self._render(messages, tools, add_generation_prompt, switches or {}))

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, opened: bool, switches: Mapping[str, Any]
    ) -> Written:
        """The prompt, with what the template wrote told from what it was given."""
        _check(messages)
        self._check_switches(switches)
        try:
            return within(
                _MAX_SECONDS,
                lambda: self._join(
                    messages=[_with_thoughts(m) for m in messages],
                    tools=list(tools) if tools else None,
                    add_generation_prompt=opened,
                    **self._names,
                    **switches,
                ),
            )
        except TimeoutError as error:
            raise TemplateError(f"the chat template does not end: {error}", hint="check chat_template.jinja") from None
        except (jinja2.TemplateError, *_BROKEN) as e:
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
        switches: Mapping[str, Any] | None = None,
        room: int | None = None,
    ) -> list[int]:
        """The prompt of a conversation as token ids; special tokens only where the template wrote them.

        `room`: a text that cannot have so few tokens is refused before they are made (ContextOverflowError).
        """
        text = self._prompt(messages, tools, add_generation_prompt, switches)
        if room is not None:
            tokenizer.check_room(text, room)
        spelled = spelled_marks(self.dialect, self.source, tokenizer)
        return _encode(text, tokenizer, {mark: tokenizer.break_of(mark) for mark in spelled if mark in text})

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        switches: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation as the text of which `encode` makes tokens."""
        return str.__str__(self._prompt(messages, tools, True, switches))

    def _prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        opened: bool,
        switches: Mapping[str, Any] | None,
    ) -> Written:
        """The prompt, with nothing left out that the template can tell.

        An assistant's `tool_calls` (OpenAI's form) are rendered by the template, or put in front of its content.
        """
        turns = [turn for message in self._tellable(messages) for turn in self._with_calls(message)]
        return self._render(turns, self._told(tools), opened, switches or {})

    @cached_property
    def _call_form(self) -> CallForm:
        return find_form(self.render)

    def _tellable(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages in the form in which the template leaves out none of them."""
        _check(messages)
        systems = [n for n, message in enumerate(messages) if message["role"] in SYSTEM_ROLES]
        if any(systems) and self._leaves_out_systems:
            messages = with_one_system(messages)
        if not any(isinstance(c := m.get("tool_calls"), list | tuple) and len(c) > 1 for m in messages):
            return messages
        if "tool_call_id" not in self.source:  # the place alone says whose result it is
            messages = with_results_in_order(messages)
        return with_single_calls(messages) if self.renders_calls and self._call_form.single else messages

    def _told(self, tools: Sequence[Any] | None) -> Sequence[Any] | None:
        return wrapped(tools) if tools and not self._tells_bare_tools else tools

    @cached_property
    def _leaves_out_systems(self) -> bool:
        """Whether a system message that is not the first is silently left out."""
        try:
            texts = [self.render([*SYSTEMS, TURNS[0]]), self.render([*TURNS, SYSTEMS[1], TURNS[0]])]
        except EdgeLfmError:
            return False  # it says so itself
        return not all(SYSTEMS[1]["content"] in text for text in texts)

    @cached_property
    def _tells_bare_tools(self) -> bool:
        """Whether a tool without OpenAI's wrapping and without a description is written; if it is with them."""
        try:
            return PROBE_TOOL["name"] in self.render(TURNS[:1], tools=[PROBE_TOOL])
        except EdgeLfmError:
            return False

    def _check_switches(self, switches: Mapping[str, Any]) -> None:
        refused = self.dialect.channels.refused_switches if self.dialect.channels is not None else {}
        for name in switches:
            if name in refused:
                said = f"chat_template_kwargs: {name} is not done"
                raise UsageError(said, hint=refused[name], param="chat_template_kwargs")
        unknown = next((name for name in switches if name not in self.switches), None)
        if unknown is not None:
            known = f"it has {', '.join(self.switches)}" if self.switches else "it has none"
            name = "chat_template_kwargs"
            raise UsageError(f"{name}: the template has no switch {unknown!r:.60}", hint=known, param=name)

    def _join(self, **variables: Any) -> Written:
        parts, length = [], 0
        for part in self._template.generate(**variables):
            parts.append(part)
            length += len(part)
            if length > _MAX_TEXT:
                raise TemplateError("the rendered prompt is longer than any context", hint="send less text")
        return Written.joined(parts)

    def _with_calls(self, message: Message) -> Sequence[Message]:
        if not isinstance(message, Mapping) or not message.get("tool_calls"):
            return [message]
        calls = read_calls(message["tool_calls"])
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        if self.renders_calls:
            return self._call_form.turns(rest, calls)
        rest["content"] = rest.get("content") or ""
        start, end = Written.literal(self.dialect.call_start), Written.literal(self.dialect.call_end)
        content = rest["content"] if isinstance(rest["content"], str) else _to_json(rest["content"])
        texts = [start + text + end for text in self.dialect.write(calls)]
        return [{**rest, "content": Written.literal("\n").join(texts) + content}]


def _switches_of(tree: nodes.Template) -> list[str]:
    """The variables that a template takes from outside: not set by it, or tested for whether they are."""
    names = list(tree.find_all(nodes.Name))
    stored = {name.name for name in names if name.ctx == "store"}
    parameters = {name.name for name in names if name.ctx == "param"}  # of macros
    tests = [test for kind in (nodes.Test, nodes.Filter) for test in tree.find_all(kind)]
    tested = {
        test.node.name
        for test in tests
        if test.name in ("default", "d", "defined", "undefined") and isinstance(test.node, nodes.Name)
    }
    return sorted(meta.find_undeclared_variables(tree) - {*_GIVEN} - (stored - tested) - parameters)


def _encode(text: Written, tokenizer: Tokenizer, spelled: Mapping[str, int]) -> list[int]:
    """Token ids of a rendered prompt: as it stands, or part by part where content spells a mark.

    spelled: marks that are no tokens, and where to cut those of content.
    """
    marked = parts_of(text, tokenizer.spellings) if tokenizer.spellings is not None else [(text, False)]
    parts = [(piece, literal) for part, literal in marked for piece in broken(part, spelled)]
    if len(parts) == len(marked) and all(literal for _, literal in parts[1::2]):
        ids = tokenizer.encode(text, special=True)
        if sum(map(tokenizer.is_control, ids)) == len(parts) // 2:  # a normalizer may make more of them
            return ids
    return [i for part, literal in parts for i in tokenizer.encode(part, special=literal)]


def _with_thoughts(message: Message) -> dict[str, Any]:
    """A message with what was thought before it, under every name by which a template may ask for it."""
    thoughts = next((message[name] for name in THOUGHTS if isinstance(message.get(name), str)), None)
    return {**message, **(dict.fromkeys(THOUGHTS, thoughts) if thoughts is not None else {})}


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise TemplateError("there are no messages", hint="send at least one user message")
    for n, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TemplateError(f"message {n} has no role", hint='a message is {"role": "user", "content": "..."}')
        if "content" not in message and "tool_calls" not in message:
            raise TemplateError(f"message {n} has no content", hint='a message is {"role": "user", "content": "..."}')


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
