"""A conversation: its messages, and what may be done to them.

`messages` is a plain list and may be edited: whatever of it was computed before is found again by its tokens, so a
turn costs only what is new, and so do undo, edit, regenerate and fork. Knows messages; does not know states.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_lfm.api.fitting import check_overflow
from edge_lfm.api.generation import AsyncGeneration, Generation, OnEnd
from edge_lfm.engine.answering import Events
from edge_lfm.engine.events import Completion
from edge_lfm.engine.scheduler import Job
from edge_lfm.engine.session_file import save_sequence
from edge_lfm.errors import SessionFileError, UsageError

if TYPE_CHECKING:
    from edge_lfm.api.model import Model

Message = Mapping[str, Any]
Content = str | Message | Sequence[Message]


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
            options: as in `Model.generate`; documents and examples hold for this turn only.

        Raises:
            EdgeLfmError: as `Model.generate`; or the session is still answering.
        """
        return self.stream(content, **options).result()

    def stream(self, content: Content, **options: Any) -> Generation:
        """As `send`, with the answer as it comes. If it is closed early, what came until then stays as the answer."""
        return Generation(*self._start(self.messages + _as_messages(content), options))

    def stream_async(self, content: Content, **options: Any) -> AsyncGeneration:
        """As `stream`, for asyncio."""
        return AsyncGeneration(*self._start(self.messages + _as_messages(content), options))

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
        return Generation(*self._start(messages, options))

    def undo(self) -> list[dict[str, Any]]:
        """Take back the last message of the user and all that followed; gives what was taken.

        Raises:
            UsageError: there is none, or the session is still answering.
        """
        self._check_free()
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
            lambda: save_sequence(Path(path), model.engine.pool.find(me), model.files.fingerprint, extra)
        )

    def _start(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> tuple[Job[Events], OnEnd]:
        """Queue the answer to these messages; what is to be told of its end."""
        self._check_free()
        kept = _without(messages, self.dropped_messages)
        made = self.model.prepare(kept, tools=self.tools, overflow=self.overflow, **options)
        dropped = self.dropped_messages + made.dropped_messages
        job = self.model.submit(replace(made, dropped_messages=dropped), self)
        self._answering, self.dropped_messages = True, dropped

        def end(text: str, completion: Completion | None) -> None:
            self._answering = False
            if completion is not None:
                self.messages = [*messages, _answer_of(completion)]
            elif text:
                self.messages = [*messages, {"role": "assistant", "content": text}]

        return job, end

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
