"""The input of Ollama's interface, checked while it is decoded; and the chat, or the raw prompt, that it asks for.

Names and meanings are Ollama's. How a model is held in memory (`keep_alive`, `num_ctx`, `num_gpu`, ...) is for those
who started the server: taken, and of no effect. A prompt that does not fit is refused, and never cut.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from edge_lfm.api.options import Effort
from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import Body
from edge_lfm.server.formats import Format, json_schema
from edge_lfm.server.messages import Message
from edge_lfm.server.schemas import MAX_MESSAGES, ChatRequest, CompletionRequest, StopIds, Stops, Tools
from edge_lfm.server.unknown_tools import UnknownTools

Json = dict[str, Any]
_HELD = frozenset(
    """num_ctx num_batch num_gpu main_gpu num_thread num_keep numa low_vram f16_kv logits_all vocab_only use_mmap
    use_mlock embedding_only""".split()  # noqa: SIM905
)
_ALL = (None, -1)
"""Of `repeat_last_n`: every token so far, which is what the penalty looks at."""


class Options(Body):
    """How an answer is drawn, and when it ends. The last four are vLLM's, which all interfaces have."""

    harmless: ClassVar[frozenset[str]] = _HELD

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: Stops | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=1 << 31)] | None = None
    min_tokens: int | None = None
    stop_token_ids: StopIds | None = None
    ignore_eos: bool | None = None
    bad_words: Annotated[list[str], Meta(max_length=1000)] | None = None

    def asked(self) -> Json:
        """The same as fields of a chat or a completion."""
        if self.repeat_last_n not in _ALL and self.repeat_penalty not in (None, 1.0):
            raise RequestError("repeat_penalty looks at all tokens: give repeat_last_n -1", "options.repeat_last_n")
        ours = ("stop", "repeat_last_n", "num_predict")
        drawn = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ours}
        return drawn | {"stop": self.stop or None, "n_predict": self.num_predict}


class OllamaMessage(Message):
    """A turn. tool_name: whose result it is; templates know results by their place."""

    harmless: ClassVar[frozenset[str]] = Message.harmless | {"tool_name"}

    thinking: str | None = None


class _Asked(Body, kw_only=True):
    """What both routes have. keep_alive: how long the model stays; `truncate`, `shift`: what to do with what does not
    fit, of which there is never any."""

    harmless: ClassVar[frozenset[str]] = frozenset({"keep_alive", "truncate", "shift"})

    model: str | None = None
    stream: bool | None = None
    format: Json | str | None = None
    options: Options | None = None
    think: bool | Literal["", "low", "medium", "high"] | None = None

    @property
    def _fields(self) -> Json:
        """The fields of a chat or a completion: all but what is said."""
        options = (self.options or Options()).asked()
        return options | {"model": self.model, "stream": self.stream, "response_format": self._form}

    @property
    def _budget(self) -> int | None:
        return 0 if self.think is False else None

    @property
    def _effort(self) -> Effort | None:
        return self.think or None if isinstance(self.think, str) else None

    @property
    def _form(self) -> Format | None:
        if not self.format:
            return None
        if self.format == "json":
            return Format(type="json_object")
        if isinstance(self.format, str):
            raise RequestError(f"format is {self.format!r:.40}: give json, or a schema", "format")
        return Format(type="json_schema", schema=json_schema(self.format, "format"))


class OllamaChat(_Asked, kw_only=True):
    """POST /api/chat"""

    messages: Annotated[list[OllamaMessage], Meta(max_length=MAX_MESSAGES)] | None = None
    tools: Tools | None = None
    unknown_tools: UnknownTools | None = None

    def chat(self) -> ChatRequest | None:
        """The chat that it asks for; None: only the model is to be loaded."""
        for message in self.messages or ():
            message.reasoning_content = message.thinking or message.reasoning_content
            message.content = message.content or ""
        if not self.messages:
            return None
        tools, budget = self.tools or None, self._budget
        messages, effort = list[Message](self.messages), self._effort
        return ChatRequest(
            messages=messages, tools=tools, reasoning_budget=budget, reasoning_effort=effort, **self._fields
        )


class OllamaGenerate(_Asked, kw_only=True):
    """POST /api/generate"""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    template: Literal[""] | None = None
    context: Annotated[list[int], Meta(max_length=0)] | None = None

    def chat(self) -> ChatRequest | CompletionRequest | None:
        """The chat that it asks for, or the raw text; None: only the model is to be loaded."""
        if not self.prompt:
            return None
        if self.raw or self.suffix:
            if self.system:
                raise RequestError("a raw prompt has no system message", "system")
            limit = {} if self.options and self.options.num_predict is not None else {"n_predict": -1}
            return CompletionRequest(prompt=self.prompt, suffix=self.suffix or None, **self._fields | limit)
        system = [Message("system", self.system)] if self.system else []
        messages = [*system, Message("user", self.prompt)]
        budget, effort = self._budget, self._effort
        return ChatRequest(messages=messages, reasoning_budget=budget, reasoning_effort=effort, **self._fields)


class OllamaShow(Body):
    """POST /api/show"""

    harmless: ClassVar[frozenset[str]] = frozenset({"verbose"})

    model: str | None = None
    name: str | None = None
