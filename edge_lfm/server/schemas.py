"""Requests of the interfaces, checked while they are decoded, nested fields too. Names and meanings are OpenAI's, with
llama.cpp's and vLLM's names for what OpenAI has not. What a body has beyond its fields here is for `fields.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from edge_lfm.api import MAX_TOP_LOGPROBS
from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import check_unknown
from edge_lfm.server.formats import Bound, Format, json_schema

MAX_MESSAGES = 10_000
MAX_PROMPTS = 256
MAX_CHOICES = 16
DEFAULT_TOKENS = 16
"""OpenAI's, of completions."""
MAX_TOKEN_IDS = 1 << 18
"""More than the context of any model of these families."""

Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
TokenIds = Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)]
StopIds = Annotated[list[int], Meta(max_length=256)]
Stops = str | Annotated[list[str], Meta(max_length=16)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]
"""OpenAI's limits."""
S = TypeVar("S", bound="Struct")
_ALIASES = {
    "repeat_penalty": ("repetition_penalty",),
    "min_tokens": ("min_new_tokens",),
    "ignore_eos": ("ignore_eos_token",),
}
"""Other servers' names for an option: vLLM's, SGLang's and TGI's."""


class StreamOptions(Struct):
    include_usage: bool | None = None


class Sampling(Bound, kw_only=True):
    """The options of an answer that all interfaces have, named as in `AnswerOptions`, which checks their ranges."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    lookup: int | None = None
    min_tokens: int | None = None
    min_new_tokens: int | None = None
    stop_token_ids: StopIds | None = None
    ignore_eos: bool | None = None
    ignore_eos_token: bool | None = None
    bad_words: Annotated[list[str], Meta(max_length=1000)] | None = None

    def options(self, choice: int = 0) -> dict[str, Any]:
        """Arguments of `Model.request`. Each choice of several draws with a seed of its own."""
        others = {*Bound.__struct_fields__, *(alias for aliases in _ALIASES.values() for alias in aliases)}
        names = [name for name in Sampling.__struct_fields__ if name not in others]
        given = {n: value for n in names if (value := one_of(self, n, *_ALIASES.get(n, ()))) is not None}
        if given.get("seed") == -1:  # llama.cpp's way to say "any"
            del given["seed"]
        if "seed" in given:
            given["seed"] = (given["seed"] % (1 << 64) + choice) % (1 << 64)
        if self.logit_bias is not None:
            given["logit_bias"] = {_token_id(token): value for token, value in self.logit_bias.items()}
        return given


class Part(Struct):
    """A part of a message's content; of all kinds only text can be read."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Called(Struct):
    """The function of a call."""

    name: str
    arguments: str | dict[str, Any] | None = None


class Call(Struct):
    """A call that an assistant has made."""

    function: Called
    id: str | None = None

    def plain(self) -> dict[str, Any]:
        """The call as templates know it."""
        function = {"name": self.function.name, "arguments": self.function.arguments or "{}"}
        return {"type": "function", "id": self.id, "function": function}


class Message(Struct):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    prefix: bool | None = None
    partial: bool | None = None
    function_call: Any = None

    def plain(self, n: int) -> dict[str, Any]:
        """The message as templates know it."""
        role = "system" if self.role == "developer" else self.role
        if role not in ("system", "user", "assistant", "tool"):
            raise RequestError(f"messages[{n}] has the unknown role {role!r:.40}", f"messages[{n}].role")
        if self.content is None and role in ("system", "user"):
            raise RequestError(f"messages[{n}] has no content", f"messages[{n}].content")
        for name in ("prefix", "partial", "function_call"):
            if getattr(self, name):
                raise RequestError(f"messages[{n}].{name} is not supported", f"messages[{n}].{name}")
        content = join_parts(self.content, f"messages[{n}].content") or self.refusal or ""
        message: dict[str, Any] = {"role": role, "content": content}
        if self.tool_calls and role == "assistant":
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        if role == "assistant" and (thinking := self.reasoning_content or self.reasoning):
            message["thinking"] = thinking
        return message


class Function(Struct):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    """A tool: a function in OpenAI's wrapping, or bare."""

    type: Literal["function"] = "function"
    function: Function | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Reasoning(Struct):
    """How much to think: as much as the model does."""

    effort: Literal["medium"] | None = None


class Document(Struct, forbid_unknown_fields=True):
    """A text to answer from."""

    text: str
    id: str | None = None
    title: str | None = None


class TextOptions(Struct, forbid_unknown_fields=True):
    """The form of a response's text."""

    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)]
    model: str | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_budget: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    n_predict: Annotated[int, Meta(ge=-2, le=1 << 31)] | None = None
    max_new_tokens: Count | None = None
    truncation: Literal["auto", "disabled"] | None = None
    documents: Annotated[list[Document | str], Meta(max_length=1000)] | None = None
    citations: bool | None = None
    trim_documents: bool | None = None
    return_progress: bool | None = None

    def plain_messages(self) -> list[dict[str, Any]]:
        return [message.plain(n) for n, message in enumerate(self.messages)]

    @property
    def limit(self) -> int | None:
        limit: int | None = one_of(self, "max_completion_tokens", "max_tokens", "max_new_tokens", "n_predict")
        return None if limit is None or limit < 0 else limit

    @property
    def shown_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else allowed(self.tools or [], self.tool_choice)[0]

    @property
    def choice(self) -> Any:
        """How they may be called: auto, none, required, or the name of one."""
        return allowed(self.tools or [], self.tool_choice)[1] or "auto"

    @property
    def soft_tries(self) -> int | None:
        """How often a JSON schema is to be asked for without binding the answer; None: it binds."""
        return self.response_format.soft if self.response_format is not None else None

    @property
    def labels(self) -> list[str]:
        """The choices whose probabilities are told."""
        return (self.form().get("choices") or []) if self.logprobs else []

    def unbound(self) -> ChatRequest:
        """The same without a form."""
        return structs.replace(self, **dict.fromkeys(Bound.__struct_fields__))

    def check(self) -> None:
        """Refuse what excludes each other, or is not supported together."""
        check_tools(self.tools)
        if self.form() and self.shown_tools:
            raise RequestError("response_format and tools exclude each other", "response_format")
        if self.soft_tries is not None and (self.stream or (self.n or 1) != 1):
            raise RequestError("response_format with soft gives one choice, not streamed", "response_format")
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs", "top_logprobs")


class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions"""

    prompt: (
        str
        | Annotated[list[str | int | Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)]], Meta(min_length=1)]
        | None
    ) = None
    model: str | None = None
    suffix: str | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    n_predict: Annotated[int, Meta(ge=-2, le=1 << 31)] | None = None
    max_new_tokens: Count | None = None
    n: Choices | None = None
    best_of: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    return_progress: bool | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens to generate; None: until the context is full."""
        limit: int | None = one_of(self, "max_tokens", "max_new_tokens", "n_predict")
        return DEFAULT_TOKENS if limit is None else None if limit < 0 else limit

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        prompt = self.prompt if self.prompt is not None else ""
        if isinstance(prompt, str):
            return [prompt]
        if all(isinstance(item, int) for item in prompt):
            return [prompt]  # type: ignore[list-item]
        if any(isinstance(item, int) for item in prompt):
            raise RequestError("prompt mixes token ids and texts", "prompt")
        if len(prompt) > MAX_PROMPTS:
            raise RequestError(f"prompt has {len(prompt)} texts, at most {MAX_PROMPTS} are taken", "prompt")
        return prompt  # type: ignore[return-value]

    def check(self) -> None:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError("best_of is not supported", "best_of")
        if self.suffix is not None and self.echo:
            raise RequestError("echo and suffix exclude each other", "echo")
        if self.stream and self.echo and self.logprobs is not None:
            raise RequestError("echo with logprobs cannot be streamed", "stream")
        if self.limit == 0 and not self.echo:
            raise RequestError("max_tokens 0 is for echo", "max_tokens")


class ResponsesRequest(Sampling, kw_only=True):
    """POST /v1/responses"""

    input: str | Annotated[list[dict[str, Any]], Meta(max_length=MAX_MESSAGES)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: Metadata | None = None

    def form(self) -> dict[str, Any]:
        """Arguments of `Model.prepare` that bind the answer."""
        named = (
            self.text.format.options("text.format") if self.text is not None and self.text.format is not None else {}
        )
        others = super().form()
        if named and others:
            raise RequestError("text.format and another field bind the answer; give one", "text.format")
        return named or others


class TokenizeRequest(Struct):
    """POST /tokenize: llama.cpp's `content`, or vLLM's `prompt` or `messages`."""

    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)] | None = None
    add_special: bool = False
    add_special_tokens: bool = False
    model: str | None = None

    @property
    def text(self) -> str | None:
        """The text, under either name."""
        return self.content if self.content is not None else self.prompt


class DetokenizeRequest(Struct):
    """POST /detokenize"""

    tokens: TokenIds
    model: str | None = None


class TemplateRequest(Struct):
    """POST /apply-template"""

    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)]
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    model: str | None = None


def one_of(body: Struct, *names: str) -> Any:
    """The value of what has several names; None if none of them is given.

    Raises:
        RequestError: two of them differ.
    """
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    first = next(iter(given.values()), None)
    if any(value != first for value in given.values()):
        raise RequestError(f"{' and '.join(given)} differ; give one", next(iter(given)))
    return first


def check_tools(tools: list[dict[str, Any]] | None) -> None:
    """Refuse what is no function with a JSON schema of its arguments.

    Raises:
        RequestError: one is none.
    """
    try:
        checked = msgspec.convert(tools or [], list[Tool])
    except msgspec.ValidationError as error:
        raise RequestError(f"tools: {error!s:.300}", "tools") from None
    for n, tool in enumerate(checked):
        parameters = tool.function.parameters if tool.function is not None else tool.parameters
        if parameters is not None:
            json_schema(parameters, f"tools[{n}]")


def decode(body: bytes, kind: type[S]) -> S:
    """A request from its body.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError, RecursionError: it is not sound; `failures` knows them.
        RequestError: a field is not supported.
    """
    request = msgspec.json.decode(body, type=kind)
    check_unknown(body, kind.__struct_encode_fields__)
    return request


def join_parts(content: str | Sequence[Part] | None, where: str) -> str:
    """The text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in _TEXT_PARTS or (part.refusal if part.type == "refusal" else part.text) is None:
            raise RequestError(f"the model reads text only, not {part.type!r:.40}", where)
    return "\n".join(part.text or part.refusal or "" for part in content)


_TEXT_PARTS = ("text", "input_text", "output_text", "reasoning_text", "summary_text", "refusal")


def allowed(tools: list[dict[str, Any]], choice: Any) -> tuple[list[dict[str, Any]], Any]:
    """The tools that may be called, and how: OpenAI's tool_choice of type allowed_tools names some of them and a mode.

    Raises:
        RequestError: it names one that is not there, or is malformed.
    """
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return tools, choice
    allowed_tools = choice.get("allowed_tools", choice)
    named = allowed_tools.get("tools") if isinstance(allowed_tools, dict) else None
    if not isinstance(named, list) or allowed_tools.get("mode", "auto") not in ("auto", "required"):
        raise RequestError("tool_choice of type allowed_tools has no tools and mode", "tool_choice")
    names = {_name_of(tool) for tool in named}
    kept = [tool for tool in tools if _name_of(tool) in names]
    if len(kept) < len(names):
        raise RequestError("tool_choice allows a tool that is not among the tools", "tool_choice")
    return kept, allowed_tools.get("mode", "auto")


def _name_of(tool: Any) -> Any:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def _token_id(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 12):
        raise RequestError(f"logit_bias names {token!r:.40}, which is no token id", "logit_bias")
    return int(token)


def finite(value: float) -> float | None:
    """A number that JSON can carry: minus infinity has no spelling there."""
    return value if math.isfinite(value) else None
