"""Requests of the interfaces, checked while they are decoded, nested fields too. Names and meanings are OpenAI's, with
llama.cpp's and vLLM's names for what OpenAI has not. What a body has beyond its fields here is for `fields.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, structs

from edge_lfm.api import MAX_TOP_LOGPROBS
from edge_lfm.api.options import Effort
from edge_lfm.errors import EdgeLfmError
from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import Body, Nested, check_unknown, kind_of_items, place_of_fault
from edge_lfm.server.formats import Bound, Format
from edge_lfm.server.messages import Message
from edge_lfm.server.namespaces import ResponseTool
from edge_lfm.server.response_input import Item
from edge_lfm.server.settings import Defaults
from edge_lfm.server.sizes import check_values
from edge_lfm.server.tools import Tool, ToolChoice, allowed, check_tools
from edge_lfm.server.unknown_tools import UnknownTools, known_tools_only

MAX_MESSAGES = 10_000
MAX_PROMPTS = 256
MAX_CHOICES = 16
DEFAULT_TOKENS = 16
"""OpenAI's, of completions."""
MAX_TOKEN_IDS = 1 << 18
"""More than the context of any model of these families."""

Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Limit = Annotated[int, Meta(ge=-2, le=1 << 31)]
"""Of tokens; below 0: until the context is full, as llama.cpp's and Ollama's clients say it."""
TokenIds = Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)]
Tools = Annotated[list[Tool], Meta(max_length=1000)]
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
_FORMS = ("text", *Bound.__struct_fields__)
_FIELDS: dict[str, tuple[str, ...]] = {
    **{option: (option, *aliases) for option, aliases in _ALIASES.items()},
    **dict.fromkeys(("schema", "regex", "lark", "choices"), _FORMS),
    "max_tokens": ("max_completion_tokens", "max_output_tokens", "max_tokens", "max_new_tokens", "n_predict"),
    "prompt": ("messages", "input", "prompt", "content"),
    "system": ("instructions",),
    "reasoning_effort": ("reasoning_effort", "reasoning"),
    "cite": ("citations",),
    "logprobs": ("top_logprobs", "logprobs"),
}
"""The fields that an option of `AnswerOptions` may come from, where they are not called as it is."""


class StreamOptions(Nested):
    """What a stream tells beside the answer. Padding against listeners, and counts in every event, are not sent."""

    harmless: ClassVar[frozenset[str]] = frozenset({"include_obfuscation", "continuous_usage_stats"})

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
    max_drafts: int | None = None
    min_tokens: int | None = None
    min_new_tokens: int | None = None
    stop_token_ids: StopIds | None = None
    ignore_eos: bool | None = None
    ignore_eos_token: bool | None = None
    bad_words: Annotated[list[str], Meta(max_length=1000)] | None = None

    def settle(self, defaults: Defaults) -> None:
        """Take what the server gives to requests that do not say it."""
        if self.temperature is None:
            self.temperature = defaults.temperature

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


class Reasoning(Nested):
    """How much to think. Of how it is told, thoughts are told whole."""

    harmless: ClassVar[frozenset[str]] = frozenset({"summary", "generate_summary"})

    effort: Effort | None = None


class Document(Nested):
    """A text to answer from."""

    text: str
    id: str | None = None
    title: str | None = None


class TextOptions(Nested):
    """The form of a response's text."""

    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)]
    model: str | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    n: Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | str | None = None
    unknown_tools: UnknownTools | None = None
    parallel_tool_calls: bool | None = None
    reasoning_budget: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    n_predict: Limit | None = None
    max_new_tokens: Limit | None = None
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

    def settle(self, defaults: Defaults) -> None:
        super().settle(defaults)
        self.max_tokens = defaults.limit(self.limit)
        self.max_completion_tokens = self.max_new_tokens = self.n_predict = None
        if defaults.system and not any(message.role in ("system", "developer") for message in self.messages[:1]):
            self.messages = [Message("system", defaults.system), *self.messages]

    @property
    def shown_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        return [tool.plain() for tool in allowed(self.tools, self.tool_choice)[0]]

    @property
    def choice(self) -> str:
        """How they may be called: auto, none, required, or the name of one."""
        return allowed(self.tools, self.tool_choice)[1]

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
        if self.soft_tries is not None and self.shown_tools:
            raise RequestError("response_format with soft and tools exclude each other", "response_format")
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
    max_tokens: Limit | None = None
    n_predict: Limit | None = None
    max_new_tokens: Limit | None = None
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

    def settle(self, defaults: Defaults) -> None:
        super().settle(defaults)
        if defaults.max_tokens_cap is not None:
            limit = self.limit
            self.max_tokens = defaults.max_tokens_cap if limit is None else min(limit, defaults.max_tokens_cap)
            self.max_new_tokens = self.n_predict = None

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

    input: str | Annotated[list[Item], Meta(max_length=MAX_MESSAGES)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: Annotated[list[ResponseTool], Meta(max_length=1000)] | None = None
    tool_choice: ToolChoice | str | None = None
    unknown_tools: UnknownTools | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: Metadata | None = None

    def settle(self, defaults: Defaults) -> None:
        super().settle(defaults)
        self.max_output_tokens = defaults.limit(self.max_output_tokens)
        self.instructions = self.instructions or defaults.system

    def form(self) -> dict[str, Any]:
        """Arguments of `Model.prepare` that bind the answer."""
        named = (
            self.text.format.options("text.format") if self.text is not None and self.text.format is not None else {}
        )
        others = super().form()
        if named and others:
            raise RequestError("text.format and another field bind the answer; give one", "text.format")
        return named or others


class TokenizeRequest(Body):
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
        text: str | None = one_of(self, "content", "prompt")
        return text


class DetokenizeRequest(Body):
    """POST /detokenize"""

    tokens: TokenIds
    model: str | None = None


class TemplateRequest(Body):
    """POST /apply-template"""

    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)]
    tools: Tools | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    model: str | None = None


@contextmanager
def as_fields(body: Struct) -> Iterator[None]:
    """Errors inside name the field of the body that an option came from, as the client spelled it."""
    try:
        yield
    except EdgeLfmError as error:
        names = _FIELDS.get(error.param or "", (error.param,))
        error.param = next((name for name in names if name and getattr(body, name, None) is not None), error.param)
        raise


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


def decode(body: bytes, kind: type[S], omit: bool = False) -> S:
    """A request from its body. omit: leave out tools of unknown kinds, whether the body says so or not.

    Raises:
        msgspec.DecodeError, RecursionError: it is no JSON; `failures` knows them.
        RequestError: a field is missing, not of its type, or not supported; or there are too many values.
    """
    check_values(body)
    if (tool := kind_of_items(kind, "tools")) is not None:
        body = known_tools_only(body, tool.kinds, omit)
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _fault(body, kind, str(error)) from None
    check_unknown(body, kind)
    return request


def _fault(body: bytes, kind: type[S], message: str) -> RequestError:
    """What msgspec says of a body, with the whole place: it leaves out the numbers of items."""
    place, said = place_of_fault(body, kind), message.partition(" - at `")[0]
    missing = re.search("required field `(.*)`", said)
    field = ".".join(filter(None, (place, missing[1] if missing else "")))
    return RequestError(f"{place or 'the body'}: {said}", field or None)


def _token_id(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 12):
        raise RequestError(f"logit_bias names {token!r:.40}, which is not a token id", "logit_bias")
    return int(token)


def finite(value: float) -> float | None:
    """A number that JSON can carry: minus infinity has no spelling there."""
    return value if math.isfinite(value) else None
