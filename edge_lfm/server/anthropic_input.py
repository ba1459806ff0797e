"""The input of /v1/messages, Anthropic's interface, checked while it is decoded; and the chat that it asks for.

Names and meanings are Anthropic's, with the options beside them that all interfaces have (`Sampling`). Content blocks
become turns as templates know them: results of tools turns of their own, thoughts and calls parts of the assistant's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edge_lfm.api.options import Effort
from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import HARMLESS, Nested
from edge_lfm.server.formats import Format
from edge_lfm.server.messages import Call, Called, Message
from edge_lfm.server.schemas import MAX_MESSAGES, ChatRequest, Count, Sampling
from edge_lfm.server.tools import Function, Named, Tool, ToolChoice
from edge_lfm.server.unknown_tools import UnknownTools

Json = dict[str, Any]
_NEEDED = {
    "text": "text",
    "thinking": "thinking",
    "redacted_thinking": "data",
    "tool_use": "name",
    "tool_result": "tool_use_id",
}
"""The kinds of blocks that can be read, and the field that each must have."""


class Block(Nested):
    """A block of content. Of earlier answers also comes back what says nothing to the model: who made a call, what
    signs a thought, what a text cites. redacted_thinking: thoughts that only their maker can read are left out."""

    harmless: ClassVar[frozenset[str]] = frozenset({"cache_control", "citations", "caller", "signature"})

    type: str
    text: str | None = None
    thinking: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Json | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None

    def __post_init__(self) -> None:
        if self.type not in _NEEDED:
            raise ValueError(f"the model reads text only, not {self.type!r:.40}")
        if getattr(self, _NEEDED[self.type]) is None:
            raise ValueError(f"a block of type {self.type} has no {_NEEDED[self.type]}")


class Turn(Nested):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(Nested):
    """A function that the model may call. eager_input_streaming: how its calls are told."""

    harmless: ClassVar[frozenset[str]] = frozenset({"cache_control", "eager_input_streaming"})
    kinds: ClassVar[frozenset[str]] = frozenset({"custom"})

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None
    allowed_callers: list[Literal["direct"]] | None = None

    def __post_init__(self) -> None:
        if self.type is not None and self.type not in self.kinds:
            raise ValueError(f"tools of type {self.type!r:.60} are not here; give one with an input_schema")
        if self.input_schema is None:
            raise ValueError("a tool has no input_schema")


class AnthropicChoice(Nested):
    """Which tool is to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def __post_init__(self) -> None:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("a choice of type tool has a name, and no other has one")

    def plain(self) -> ToolChoice | str:
        """The same as chats name it."""
        if self.name is not None:
            return ToolChoice(type="function", function=Named(self.name))
        return "required" if self.type == "any" else self.type


class Thinking(Nested):
    """Whether and how much to think. adaptive: as the model does. omitted: thoughts are not told."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    display: Literal["summarized", "omitted"] | None = None

    def __post_init__(self) -> None:
        if (self.type == "enabled") != (self.budget_tokens is not None):
            raise ValueError("thinking that is enabled has budget_tokens, and no other has them")


class OutputConfig(Nested):
    """The form of the answer, and how much to think for it."""

    effort: Effort | None = None
    format: Format | None = None


class KeptThoughts(Nested):
    """Of which turns the thoughts stay: of all, or of so many of the latest that have any."""

    type: Literal["all", "thinking_turns"]
    value: Count | None = None

    def __post_init__(self) -> None:
        if (self.type == "thinking_turns") != (self.value is not None):
            raise ValueError("keep of type thinking_turns has a value, and no other has one")


class Edit(Nested):
    """What is taken out of a conversation before the model reads it: thoughts of earlier turns, and nothing else."""

    kinds: ClassVar[tuple[str, ...]] = ("clear_thinking_20251015",)

    type: str
    keep: KeptThoughts | Literal["all"] | None = None

    def __post_init__(self) -> None:
        if self.type not in self.kinds:
            raise ValueError(f"edits of type {self.type!r:.60} are not here, only {', '.join(self.kinds)}")

    @property
    def turns(self) -> int | None:
        """How many of the latest turns with thoughts keep them; None: all. Without `keep` it is one, as Anthropic
        says."""
        if self.keep is None:
            return 1
        return None if self.keep == "all" else self.keep.value


class ContextManagement(Nested):
    """What is done to a conversation before the model reads it."""

    edits: Annotated[list[Edit], Meta(max_length=1)] | None = None


class CountRequest(Sampling, kw_only=True):
    """POST /v1/messages/count_tokens"""

    harmless: ClassVar[frozenset[str]] = HARMLESS | frozenset(
        {"cache_control", "inference_geo", "diagnostics", "user_profile_id", "anthropic_version"}
    )

    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: Annotated[list[AnthropicTool], Meta(max_length=1000)] | None = None
    tool_choice: AnthropicChoice | None = None
    unknown_tools: UnknownTools | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    context_management: ContextManagement | None = None
    speed: Literal["standard"] | None = None
    chat_template_kwargs: Json | None = None

    def chat(self) -> ChatRequest:
        """The chat that it asks for.

        Raises:
            RequestError: a block stands where it cannot be read, or the last turn is the assistant's.
        """
        if self.messages[-1].role == "assistant":
            raise RequestError("the last turn is the assistant's; an answer cannot be begun for the model", "messages")
        choice = self.tool_choice
        turns = [m for n, turn in enumerate(self.messages) for m in _messages_of(turn, f"messages[{n}]")]
        for edit in (self.context_management and self.context_management.edits) or ():
            _clear_thoughts(turns, edit.turns)
        return ChatRequest(
            messages=[*([Message("system", _text_of(self.system, "system"))] if self.system else []), *turns],
            model=self.model,
            tools=[_tool_of(tool) for tool in self.tools or []],
            tool_choice=choice.plain() if choice is not None else None,
            parallel_tool_calls=not choice.disable_parallel_tool_use if choice is not None else None,
            reasoning_budget=_budget_of(self.thinking),
            reasoning_effort=self.output_config.effort if self.output_config is not None else None,
            chat_template_kwargs=self.chat_template_kwargs,
            **{name: getattr(self, name) for name in Sampling.__struct_fields__} | self._format(),
        )

    def _format(self) -> Json:
        """The form under the names that Anthropic has, or had, for it."""
        config = self.output_config
        named = {
            "output_config.format": config and config.format,
            "output_format": self.output_format,
            "response_format": self.response_format,
        }
        given = {name: value for name, value in named.items() if value is not None}
        if len(given) > 1:
            raise RequestError(f"{' and '.join(given)} bind the answer in several ways; give one", next(iter(given)))
        return {"response_format": next(iter(given.values()), None)}


class MessagesRequest(CountRequest, kw_only=True):
    """POST /v1/messages"""

    max_tokens: Count | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=16)] | None = None
    stream: bool | None = None

    def chat(self) -> ChatRequest:
        chat = super().chat()
        chat.max_tokens, chat.stop, chat.stream = self.max_tokens, self.stop_sequences, self.stream
        return chat

    @property
    def tells_thoughts(self) -> bool:
        """Whether the client wants to be told what the model thinks."""
        return self.thinking is None or self.thinking.display != "omitted"


def _messages_of(turn: Turn, place: str) -> Iterator[Message]:
    """A turn as templates know it: each result of a tool by itself, the rest in the order in which it stands."""
    if turn.role == "assistant" and not isinstance(turn.content, str):
        yield _assistant(turn.content, place)
        return
    blocks = [Block("text", turn.content)] if isinstance(turn.content, str) else turn.content
    texts: list[Block] = []
    for n, block in enumerate(blocks):
        if block.type == "text":
            texts.append(block)
            continue
        if block.type != "tool_result" or turn.role != "user":
            raise RequestError(f"a turn of the {turn.role} has no {block.type}", f"{place}.content[{n}].type")
        if texts:
            yield Message(turn.role, _joined(texts))
            texts = []
        yield _result(block, f"{place}.content[{n}]")
    if texts or not blocks:
        yield Message(turn.role, _joined(texts))


def _assistant(blocks: Sequence[Block], place: str) -> Message:
    if (n := next((n for n, block in enumerate(blocks) if block.type == "tool_result"), None)) is not None:
        raise RequestError("a turn of the assistant has no tool_result", f"{place}.content[{n}].type")
    calls = [Call(Called(b.name or "", b.input or {}), b.id) for b in blocks if b.type == "tool_use"]
    return Message(
        "assistant",
        _joined([block for block in blocks if block.type == "text"]),
        tool_calls=calls or None,
        reasoning_content="\n".join(b.thinking or "" for b in blocks if b.type == "thinking") or None,
    )


def _clear_thoughts(turns: Sequence[Message], kept: int | None) -> None:
    """Take the thoughts out of all turns but the latest `kept` that have any; None: out of none."""
    thinking = [turn for turn in turns if turn.reasoning_content]
    for turn in thinking[: len(thinking) - kept] if kept is not None and kept < len(thinking) else ():
        turn.reasoning_content = None


def _result(block: Block, place: str) -> Message:
    """What a tool gave; templates have no other place to say that it failed than the text."""
    text = _text_of(block.content or "", f"{place}.content")
    return Message("tool", f"Error: {text}" if block.is_error else text, tool_call_id=block.tool_use_id)


def _text_of(content: str | Sequence[Block], place: str) -> str:
    """Content that is text and nothing else.

    Raises:
        RequestError: it is more.
    """
    blocks = [Block("text", content)] if isinstance(content, str) else content
    if (n := next((n for n, block in enumerate(blocks) if block.type != "text"), None)) is not None:
        raise RequestError(f"{place} is text, and has no {blocks[n].type}", f"{place}[{n}].type")
    return _joined(blocks)


def _joined(texts: Sequence[Block]) -> str:
    return "\n".join(block.text or "" for block in texts)


def _tool_of(tool: AnthropicTool) -> Tool:
    return Tool(function=Function(tool.name, tool.description, tool.input_schema, tool.strict))


def _budget_of(thinking: Thinking | None) -> int | None:
    """The most tokens of thoughts; None: as many as the model likes."""
    if thinking is None or thinking.type == "adaptive":
        return None
    return thinking.budget_tokens or 0
