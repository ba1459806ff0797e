"""Requests of the interfaces, checked while they are decoded. Names and meanings are OpenAI's, with llama.cpp's and
vLLM's names for what OpenAI has not. Fields that change nothing here (`user`, `store`, `metadata`, ...) are accepted
and ignored, as are unknown ones; those that would change the answer and are not supported are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from edge_lfm.api import MAX_TOP_LOGPROBS, MAX_TRIES, csv_grammar, table_grammar, xml_grammar
from edge_lfm.server.failures import RequestError

MOST_MESSAGES = 10_000
MOST_PROMPTS = 256
MOST_CHOICES = 16

Choices = Annotated[int, Meta(ge=1, le=MOST_CHOICES)]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Stops = str | Annotated[list[str], Meta(max_length=16)]
S = TypeVar("S", bound="Struct")


class StreamOptions(Struct):
    include_usage: bool | None = None


class Sampling(Struct, kw_only=True):
    """The sampling options of all interfaces; ranges are checked by `SamplingOptions`, which names them as we do."""

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

    def options(self, choice: int = 0) -> dict[str, Any]:
        """Arguments of `Model.request`. Each choice of several draws with a seed of its own."""
        names = [
            f for f in Sampling.__struct_fields__ if f not in ("repetition_penalty", "repeat_penalty", "logit_bias")
        ]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        penalty = self.repeat_penalty if self.repeat_penalty is not None else self.repetition_penalty
        if penalty is not None:
            given["repeat_penalty"] = penalty
        if given.get("seed") == -1:  # llama.cpp's way to say "any"
            del given["seed"]
        if "seed" in given:
            given["seed"] = (given["seed"] % (1 << 64) + choice) % (1 << 64)
        if self.logit_bias:
            given["logit_bias"] = {_token_id(token): value for token, value in self.logit_bias.items()}
        return given


class Part(Struct):
    """A part of a message's content; of all kinds only text can be read."""

    type: str
    text: str | None = None


class Message(Struct):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def plain(self, n: int) -> dict[str, Any]:
        """The message as templates know it."""
        role = "system" if self.role == "developer" else self.role
        if role not in ("system", "user", "assistant", "tool"):
            raise RequestError(f"messages[{n}] has the unknown role {role!r:.40}", f"messages[{n}].role")
        if self.content is None and not self.tool_calls:
            raise RequestError(f"messages[{n}] has no content", f"messages[{n}].content")
        message: dict[str, Any] = {"role": role, "content": join_parts(self.content, f"messages[{n}].content")}
        if self.tool_calls and role == "assistant":
            message["tool_calls"] = self.tool_calls
        if self.reasoning_content and role == "assistant":
            message["thinking"] = self.reasoning_content
        return message


class ChatRequest(Sampling, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Meta(max_length=MOST_MESSAGES)]
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
    response_format: dict[str, Any] | None = None
    truncation: str | None = None
    documents: Annotated[list[dict[str, Any] | str], Meta(max_length=1000)] | None = None
    citations: bool | None = None
    trim_documents: bool | None = None
    return_progress: bool | None = None
    functions: Any = None
    audio: Any = None
    modalities: list[str] | None = None

    def plain_messages(self) -> list[dict[str, Any]]:
        return [message.plain(n) for n, message in enumerate(self.messages)]

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def shown_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def soft_tries(self) -> int | None:
        """How often a JSON schema is to be asked for without binding the answer; None: it binds."""
        tries = (self.response_format or {}).get("soft")
        if tries is None:
            return None
        if isinstance(tries, bool) or not isinstance(tries, int) or not 1 <= tries <= MAX_TRIES:
            raise RequestError(f"response_format.soft must be 1..{MAX_TRIES}", "response_format")
        return tries

    def check(self) -> None:
        """Refuse what would change the answer and is not supported."""
        if format_options(self.response_format, "response_format") and self.shown_tools:
            raise RequestError("response_format and tools exclude each other", "response_format")
        if self.soft_tries is not None and (self.stream or (self.n or 1) != 1):
            raise RequestError("response_format with soft gives one choice, not streamed", "response_format")
        if self.functions:
            raise RequestError("functions is not supported; use tools", "functions")
        if self.audio or any(m != "text" for m in self.modalities or []):
            raise RequestError("the model speaks text only", "modalities")
        if self.truncation not in (None, "auto", "disabled"):
            raise RequestError("truncation can be 'auto' or 'disabled'", "truncation")
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs", "top_logprobs")


class CompletionRequest(Sampling, kw_only=True):
    """POST /v1/completions"""

    prompt: (
        str | Annotated[list[str | int | Annotated[list[int], Meta(max_length=1 << 20)]], Meta(min_length=1)] | None
    ) = None
    model: str | None = None
    suffix: str | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=1 << 31)] | None = None
    n: Choices | None = None
    best_of: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    return_progress: bool | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        prompt = self.prompt if self.prompt is not None else ""
        if isinstance(prompt, str):
            return [prompt]
        if all(isinstance(item, int) for item in prompt):
            return [prompt]  # type: ignore[list-item]
        if any(isinstance(item, int) for item in prompt):
            raise RequestError("prompt mixes token ids and texts", "prompt")
        if len(prompt) > MOST_PROMPTS:
            raise RequestError(f"prompt has {len(prompt)} texts, at most {MOST_PROMPTS} are taken", "prompt")
        return prompt  # type: ignore[return-value]

    def check(self) -> None:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError("best_of is not supported", "best_of")
        if self.suffix is not None and self.echo:
            raise RequestError("echo and suffix exclude each other", "echo")
        if self.stream and self.echo and self.logprobs is not None:
            raise RequestError("echo with logprobs cannot be streamed", "stream")
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens 0 is for echo", "max_tokens")


class ResponsesRequest(Sampling, kw_only=True):
    """POST /v1/responses"""

    input: str | Annotated[list[dict[str, Any]], Meta(max_length=MOST_MESSAGES)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=1000)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    truncation: str | None = None
    background: bool | None = None
    conversation: Any = None
    metadata: dict[str, Any] | None = None


class TokenizeRequest(Struct):
    """POST /tokenize: llama.cpp's `content`, or vLLM's `prompt` or `messages`."""

    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(max_length=MOST_MESSAGES)] | None = None
    add_special: bool = False
    add_special_tokens: bool = False


class DetokenizeRequest(Struct):
    """POST /detokenize"""

    tokens: Annotated[list[int], Meta(max_length=1 << 20)]


class TemplateRequest(Struct):
    """POST /apply-template"""

    messages: Annotated[list[Message], Meta(max_length=MOST_MESSAGES)]
    tools: list[dict[str, Any]] | None = None


def format_options(wanted: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """Arguments of `Model.request` from OpenAI's response_format, with the types regex, grammar, choice, csv,
    table and xml beside its own."""
    wanted = wanted or {}
    kind = wanted.get("type", "text")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"schema": True}
    named = {"regex": ("regex", "regex"), "grammar": ("lark", "grammar"), "choice": ("choices", "choices")}
    if kind == "json_schema":
        holder = wanted.get("json_schema", wanted)
        schema = holder.get("schema") if isinstance(holder, dict) else None
        if not isinstance(schema, dict):
            raise RequestError(f"{where} has no schema", where)
        return {"schema": schema}
    if kind in ("csv", "table"):
        make = csv_grammar if kind == "csv" else table_grammar
        return {"lark": make(wanted.get("columns") or {})}
    if kind == "xml":
        return {"lark": xml_grammar(wanted.get("tree") or {})}
    if kind in named:
        ours, theirs = named[kind]
        if wanted.get(theirs) is None:
            raise RequestError(f"{where} has no {theirs}", where)
        return {ours: wanted[theirs]}
    raise RequestError(f"{where} of type {kind!r:.40} is not supported", where)


def decode(body: bytes, kind: type[S]) -> S:
    """A request from its body.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError, RecursionError: it is not sound; `failures` knows them.
    """
    return msgspec.json.decode(body, type=kind)


def join_parts(content: str | Sequence[Part] | None, where: str) -> str:
    """The text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in ("text", "input_text", "output_text") or part.text is None:
            raise RequestError(f"the model reads text only, not {part.type!r:.40}", where)
    return "\n".join(part.text or "" for part in content)


def _token_id(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 12):
        raise RequestError(f"logit_bias names {token!r:.40}, which is no token id", "logit_bias")
    return int(token)


def finite(value: float) -> float | None:
    """A number that JSON can carry: minus infinity has no spelling there."""
    return value if math.isfinite(value) else None
