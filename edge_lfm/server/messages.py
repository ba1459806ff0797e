"""Messages as clients send them, and as templates know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import Nested

_OF_THEIR_CLIENTS = frozenset(
    """id object index name status phase metadata opts agent model usage weight created created_at createdAt timestamp
    updated_at messageId message_id traceId trace_id user extra_fields finish_reason stop_reason logprobs
    cache_control copilot_cache_control prompt_cache_breakpoint provider_specific_fields provider_options
    providerOptions providerMetadata extra_content""".split()  # noqa: SIM905
)
"""Of a message, a part or a call: who said it and when, how it was made, how it may be cached."""
_TEXT_PARTS = ("text", "input_text", "output_text", "reasoning_text", "summary_text", "refusal")


class Part(Nested):
    """A part of a message's content; of all kinds only text can be read."""

    harmless: ClassVar[frozenset[str]] = _OF_THEIR_CLIENTS | {"annotations", "citations"}

    type: str
    text: str | None = None
    refusal: str | None = None

    def __post_init__(self) -> None:
        if self.type not in _TEXT_PARTS:
            raise ValueError(f"the model reads text only, not {self.type!r:.40}")
        if (self.refusal if self.type == "refusal" else self.text) is None:
            raise ValueError(f"a part of type {self.type} has no text")


class Called(Nested):
    """The function of a call. parsed_arguments: the arguments once more, as objects of the client's language; index:
    which of the calls it is."""

    harmless: ClassVar[frozenset[str]] = frozenset({"parsed_arguments", "index"})

    name: str
    arguments: str | dict[str, Any] | None = None


class Call(Nested):
    """A call that an assistant has made."""

    harmless: ClassVar[frozenset[str]] = _OF_THEIR_CLIENTS | {"caller", "thought_signature"}

    function: Called
    id: str | None = None
    type: Literal["function"] | None = None

    def plain(self) -> dict[str, Any]:
        """The call as templates know it."""
        function = {"name": self.function.name, "arguments": self.function.arguments or "{}"}
        return {"type": "function", "id": self.id, "function": function}


class Message(Nested):
    """A turn. Of an earlier answer comes back what was told beside its text: that text once more as objects (parsed),
    marks in it (annotations, citations), thoughts in a provider's own form."""

    harmless: ClassVar[frozenset[str]] = _OF_THEIR_CLIENTS | {
        *("annotations", "citations", "parsed"),
        *("reasoning_details", "reasoning_opaque", "reasoning_signature", "thinking_blocks"),
    }

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None

    def plain(self, n: int) -> dict[str, Any]:
        """The message as templates know it."""
        role = "system" if self.role == "developer" else self.role
        if role not in ("system", "user", "assistant", "tool"):
            raise RequestError(f"messages[{n}] has the unknown role {role!r:.40}", f"messages[{n}].role")
        message: dict[str, Any] = {"role": role, "content": join_parts(self.content) or self.refusal or ""}
        if self.tool_calls and role == "assistant":
            message["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id and role == "tool":
            message["tool_call_id"] = self.tool_call_id
        if role == "assistant" and (thinking := self.reasoning_content or self.reasoning):
            message["thinking"] = thinking
        return message


def join_parts(content: str | Sequence[Part] | None) -> str:
    """The text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text or part.refusal or "" for part in content)
