"""A conversation: its messages, and what may be done to them.

`messages` is a plain list and may be edited: whatever of it was computed before is found again by its tokens, so a
turn costs only what is new, and so do undo, edit, regenerate and fork. Knows messages; does not know states.
"""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Unpack

from edge_lfm.api.generation import AsyncGeneration, Generation, OnEnd
from edge_lfm.api.messages import check_messages, system_messages
from edge_lfm.api.open_model import OpenModel
from edge_lfm.api.options import Message, Overflow, Tools, TurnOptions
from edge_lfm.checking import check_path, check_type, checked
from edge_lfm.engine.answering import Events
from edge_lfm.engine.events import Completion
from edge_lfm.engine.scheduler import Job
from edge_lfm.errors import EdgeLfmError, SessionFileError, UsageError

Content = str | Message | Sequence[Message]


class Session:
    """One conversation with a model. Made by `Model.session` or `Model.restore`.

    Answers one message at a time; several sessions of a model may answer at once, from any threads.
    """

    @checked
    def __init__(
        self, model: OpenModel, system: str | None = None, tools: Tools | None = None, overflow: Overflow = "refuse"
    ) -> None:
        self.model, self.tools, self.overflow = model, list(tools or []), overflow
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self.dropped_messages = 0
        """Old messages that were left out because the context was full (`overflow="drop_oldest"`)."""
        self._answering = False

    @classmethod
    def restore(cls, model: OpenModel, path: Path) -> Session:
        """The conversation of a session file; see `Model.restore`."""
        extra, own = model.read_sequence(path)
        session = cls._from_saved(model, extra, str(path))
        own(weakref.ref(session))
        return session

    @classmethod
    def _from_saved(cls, model: OpenModel, saved: Any, where: str) -> Session:
        try:
            check_type("tools", saved["tools"], Tools)
            check_type("overflow", saved["overflow"], Overflow)
            session = cls(model, tools=saved["tools"], overflow=saved["overflow"])
            session.messages = [dict(message) for message in check_messages(saved["messages"])]
            session.dropped_messages = int(saved["dropped_messages"])
        except (TypeError, KeyError, ValueError, EdgeLfmError) as error:
            raise SessionFileError(f"{where} holds no conversation: {error}", hint="start a new one") from None
        return session

    @checked
    def send(self, content: Content, **options: Unpack[TurnOptions]) -> Completion:
        """Say something, and wait for the answer.

        Args:
            content: a user's text, or one message or several ({"role": ..., "content": ...}), as for a tool's results.
            options: those of `TurnOptions`; documents and examples hold for this turn only.

        Raises:
            EdgeLfmError: as `Model.generate`; or the session is still answering.
        """
        return self.stream(content, **options).result()

    @checked
    def stream(self, content: Content, **options: Unpack[TurnOptions]) -> Generation:
        """As `send`, with the answer as it comes. If it is closed early, what came until then stays as the answer."""
        return Generation(*self._start(self._with(content), options))

    @checked
    def stream_async(self, content: Content, **options: Unpack[TurnOptions]) -> AsyncGeneration:
        """As `stream`, for asyncio."""
        return AsyncGeneration(*self._start(self._with(content), options))

    @checked
    async def send_async(self, content: Content, **options: Unpack[TurnOptions]) -> Completion:
        """As `send`, for asyncio; cancelling the task stops the engine, and what came until then stays."""
        async with self.stream_async(content, **options) as answer:
            return await answer.result()

    @checked
    def regenerate(self, **options: Unpack[TurnOptions]) -> Generation:
        """Answer the last message anew; with temperature and another seed, otherwise.

        Raises:
            UsageError: nothing was asked yet.
        """
        self._check_free()
        messages = self._with(())
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
        try:
            json.dumps(extra)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"the messages cannot be written: {error}", hint="keep to texts and numbers") from None
        self.model.save_sequence(check_path("path", path), weakref.ref(self), extra)

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise UsageError("a session cannot be pickled or copied", hint="use fork(), or save(path) and Model.restore")

    def _with(self, content: Content) -> list[dict[str, Any]]:
        """The messages with more at their end, all checked."""
        if isinstance(content, str):
            content = [{"role": "user", "content": content}]
        more = [content] if isinstance(content, Mapping) else content
        return [dict(message) for message in check_messages([*check_messages(self.messages), *more])]

    def _start(self, messages: list[dict[str, Any]], options: TurnOptions) -> tuple[Job[Events], OnEnd]:
        """Queue the answer to these messages; what is to be told of its end."""
        self._check_free()
        kept = _without(messages, self.dropped_messages)
        made = self.model.prepare(kept, **options, tools=self.tools, overflow=self.overflow)
        dropped = self.dropped_messages + made.dropped_messages
        job = self.model.submit(replace(made, dropped_messages=dropped), weakref.ref(self))
        self._answering, self.dropped_messages = True, dropped

        def end(text: str, ended: Completion | EdgeLfmError | None) -> None:
            self._answering = False
            if isinstance(ended, Completion):
                self.messages = [*messages, _answer_of(ended)]
            elif text:
                self.messages = [*messages, {"role": "assistant", "content": text}]

        return job, end

    def _check_free(self) -> None:
        if self._answering:
            raise UsageError("this session is still answering", hint="finish or close that generation first")


def _without(messages: list[dict[str, Any]], dropped: int) -> list[dict[str, Any]]:
    """The messages that are still told to the model: all but the first `dropped` after the system message."""
    head = system_messages(messages)
    return [*messages[:head], *messages[head + dropped :]]


def _answer_of(completion: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": completion.text}
    if completion.reasoning:  # the template keeps it between a call and its result, and drops it later
        message["thinking"] = completion.reasoning
    if completion.tool_calls:
        calls = completion.tool_calls
        message["tool_calls"] = [
            {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in calls
        ]
    return message
