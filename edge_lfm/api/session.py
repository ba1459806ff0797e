"""A conversation: its messages, and what may be done to them.

`messages` is a plain list and may be edited: whatever of it was computed before is found again by its tokens, so a
turn costs only what is new, and so do undo, edit, regenerate and fork. Knows messages; does not know states.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lfm.api.answering import Request
from edge_lfm.api.events import Completion
from edge_lfm.api.fitting import check_overflow, drop_oldest
from edge_lfm.api.generation import AsyncGeneration, Generation, OnEnd
from edge_lfm.engine.session_file import save_sequence
from edge_lfm.errors import SessionFileError, UsageError

if TYPE_CHECKING:
    from edge_lfm.api.model import Model

Message = Mapping[str, Any]
Content = str | Message | Sequence[Message]
_HEADROOM = 4
"""A full context is cleared by a quarter, so that not every turn after it begins anew."""


class Session:
    """One conversation with a model. Made by `Model.session` or `Model.restore`.

    Answers one message at a time; several sessions of a model may answer at once, from any threads.
    """

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        overflow: str = "refuse",
    ) -> None:
        self.model, self.tools, self.overflow = model, list(tools or []), check_overflow(overflow)
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self.dropped_messages = 0
        """Old messages that were left out because the context was full (`overflow="drop_oldest"`)."""
        self._answering = False

    @classmethod
    def from_saved(cls, model: Model, saved: Any, where: str) -> Session:
        """The conversation of a session file's extra.

        Raises:
            SessionFileError: it is none.
        """
        try:
            session = cls(model, tools=saved["tools"], overflow=saved["overflow"])
            session.messages = [{**m, "role": str(m["role"])} for m in saved["messages"]]
            session.dropped_messages = int(saved["dropped_messages"])
        except (TypeError, KeyError, ValueError, UsageError) as error:
            raise SessionFileError(f"{where} holds no conversation: {error}", hint="start a new one") from None
        return session

    def send(self, content: Content, **options: Any) -> Completion:
        """Say something, and wait for the answer.

        Args:
            content: a user's text, or one message or several ({"role": ..., "content": ...}), as for a tool's results.
            options: as in `Model.generate`.

        Raises:
            EdgeLfmError: as `Model.generate`; or the session is still answering.
        """
        return self.stream(content, **options).result()

    def stream(self, content: Content, **options: Any) -> Generation:
        """As `send`, with the answer as it comes. If it is closed early, what came until then stays as the answer."""
        request, on_end = self._prepare(self.messages + _as_messages(content), options)
        return Generation(self.model.submit(request, self), on_end)

    def stream_async(self, content: Content, **options: Any) -> AsyncGeneration:
        """As `stream`, for asyncio."""
        request, on_end = self._prepare(self.messages + _as_messages(content), options)
        return AsyncGeneration(self.model.submit(request, self), on_end)

    def regenerate(self, **options: Any) -> Generation:
        """Answer the last message anew; with temperature and another seed, otherwise.

        Raises:
            UsageError: nothing was asked yet.
        """
        self._check_free()
        messages = list(self.messages)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages or messages[-1]["role"] == "system":
            raise UsageError("there is no answer to make again", hint="say something first")
        request, on_end = self._prepare(messages, options)
        return Generation(self.model.submit(request, self), on_end)

    def undo(self) -> list[dict[str, Any]]:
        """Take back the last message of the user and all that followed; gives what was taken.

        Raises:
            UsageError: there is none.
        """
        last = max((n for n, m in enumerate(self.messages) if m["role"] == "user"), default=None)
        if last is None:
            raise UsageError("there is nothing to take back", hint="say something first")
        taken = self.messages[last:]
        del self.messages[last:]
        if self.dropped_messages >= last:  # what was left out is now the end of the conversation
            self.dropped_messages = 0
        return taken

    def fork(self) -> Session:
        """A second conversation that goes on from here."""
        other = Session(self.model, tools=self.tools, overflow=self.overflow)
        other.messages, other.dropped_messages = copy.deepcopy(self.messages), self.dropped_messages
        return other

    def save(self, path: str | Path) -> None:
        """Write the conversation with all that was computed for it, for `Model.restore`.

        Raises:
            UsageError: it is answering.
            OutputError: the file cannot be written.
        """
        self._check_free()
        extra = {"messages": self.messages, "tools": self.tools, "overflow": self.overflow}
        extra["dropped_messages"] = self.dropped_messages
        model, me = self.model, weakref.ref(self)
        model.scheduler.call(
            lambda: save_sequence(Path(path), model.engine.pool.find(me), model.packed.fingerprint, extra)
        )

    def _prepare(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> tuple[Request, OnEnd]:
        self._check_free()
        request = self._fit(messages, options)
        self._answering = True

        def end(text: str, completion: Completion | None) -> None:
            self._answering = False
            if completion is not None:
                self.messages = [*messages, _answer_of(completion)]
            elif text:
                self.messages = [*messages, {"role": "assistant", "content": text}]

        return request, end

    def _fit(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> Request:
        """The request; if it does not fit and may be shortened, a quarter of the context is cleared."""
        model = self.model
        kept = _without(messages, self.dropped_messages)
        ids = model.encode_prompt(kept, tools=self.tools)
        if len(ids) >= model.context and self.overflow == "drop_oldest":
            _, ids, dropped = drop_oldest(
                kept, lambda m: model.encode_prompt(m, tools=self.tools), model.context - model.context // _HEADROOM
            )
            self.dropped_messages += dropped
        return model.requests.request(ids, tools=self.tools, dropped_messages=self.dropped_messages, **options)

    def _check_free(self) -> None:
        if self._answering:
            raise UsageError("this session is still answering", hint="finish or close that generation first")


def _as_messages(content: Content) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    return [dict(m) for m in ([content] if isinstance(content, Mapping) else content)]


def _without(messages: list[dict[str, Any]], dropped: int) -> list[dict[str, Any]]:
    """The messages that are still told to the model: all but the first `dropped` after the system message."""
    head = 1 if messages and messages[0]["role"] == "system" else 0
    return [*messages[:head], *messages[head + dropped :]]


def _answer_of(completion: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": completion.text}
    if completion.tool_calls:
        calls = completion.tool_calls
        message["tool_calls"] = [
            {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls
        ]
    return message
