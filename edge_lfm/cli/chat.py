"""`edge-lfm chat`: a conversation in the terminal, with commands; plain lines in and answers out when piped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_lfm.api import Completion, Generation, Model, Session
from edge_lfm.cli.arguments import (
    describe_paging,
    describe_timings,
    open_model,
    print_json,
    sampling_of,
    show,
    timings_json,
)
from edge_lfm.cli.line_editing import line_editing
from edge_lfm.errors import EdgeLfmError, UsageError

_ALIASES = {"/?": "/help", "/clear": "/reset", "/quit": "/exit", "/bye": "/exit"}
"""Other programs' names for commands."""


def run(args: argparse.Namespace) -> None:
    with open_model(args.model, args) as model:
        _Chat(model, args).run()


class _Chat:
    """The loop: lines in, answers and commands out."""

    def __init__(self, model: Model, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        self.terminal = sys.stdin.isatty()
        self.last: Completion | None = None
        self.told_dropped = 0
        self.session = model.restore(args.load) if args.load else self._new(args.system)
        self.commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/help": (self._help, "show this"),
            "/reset": (lambda _: self._reset(), "forget the conversation, keep the system message"),
            "/set": (
                self._set,
                "NAME VALUE: an option of the answers to come, as temperature 0.5; alone: all",
            ),
            "/system": (self._system, "TEXT: set the system message and start anew"),
            "/undo": (lambda _: self._undo(), "take back the last question and its answer"),
            "/regenerate": (lambda _: self._answer(self.session.regenerate(**self._options())), "answer anew"),
            "/save": (self._save, "FILE: write the conversation with all that was computed for it"),
            "/load": (self._load, "FILE: go on with a saved conversation"),
            "/stats": (lambda _: self._stats(), "tokens, speed, memory"),
            "/exit": (lambda _: self._exit(), "end; so does Ctrl-D"),
        }
        self.options: dict[str, Any] = {"max_tokens": args.max_tokens, **sampling_of(args)}
        self.ended = False

    def run(self) -> None:
        if not self.terminal:
            self._loop("")
            return
        model = self.model
        print(
            f"{model.folder.name}, {model.isa}, {model.threads} threads; Ctrl-C stops an answer, Ctrl-D ends, "
            "/help lists commands",
            file=sys.stderr,
        )
        with line_editing(model.folder.name, [*self.commands, *_ALIASES]):
            self._loop("> ")

    def _loop(self, prompt: str) -> None:
        while not self.ended:
            try:
                line = input(prompt)
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self.terminal:
                    raise
                print(file=sys.stderr)
                continue
            if line.strip():
                if self.args.echo and not self.terminal:
                    print(f"> {line}")
                self._take(line)

    def _take(self, line: str) -> None:
        """One line of the user. In a terminal an error is told, and the conversation goes on. Ctrl-C stops what the
        line asks for, from its first moment on: preparing the first prompt takes half a second on a busy machine."""
        try:
            word, _, rest = line.strip().partition(" ")
            word = _ALIASES.get(word, word)
            if word in self.commands:
                self.commands[word][0](rest.strip())
            elif line.startswith("/") and word[1:].isalpha():
                raise UsageError(f"unknown command {word}", hint="/help lists them; a space before it makes it text")
            else:
                self._answer(self.session.stream(line, **self._options()))
        except KeyboardInterrupt:
            if not self.terminal:
                raise
            print(" [stopped]", flush=True)
        except EdgeLfmError as error:
            if not self.terminal:
                raise
            print(f"[{' '.join(str(error).split())}]", file=sys.stderr)

    def _answer(self, generation: Generation) -> None:
        paging = self.model.paging
        before = paging.copy() if paging is not None else None
        try:
            show(generation, quiet=self.args.json, paging=self.model.paging)
        except KeyboardInterrupt:
            generation.close()
            raise
        answer = self.last = generation.result()
        if self.args.json:
            print_json(_as_json(answer))
            return
        print(flush=True)
        if answer.dropped_messages > self.told_dropped:
            self._tell(f"the context is full: the oldest {answer.dropped_messages} messages are left out")
        self.told_dropped = answer.dropped_messages
        self._tell(describe_timings(answer.timings))
        if paging is not None and before is not None:
            t = answer.timings
            self._tell(describe_paging(paging.since(before), t.prompt_tokens - t.cached_tokens + t.completion_tokens))

    def _new(self, system: str | None) -> Session:
        return self.model.session(system, overflow="drop_oldest")

    def _options(self) -> dict[str, Any]:
        return self.options

    def _tell(self, text: str) -> None:
        print(f"[{text}]", file=sys.stderr, flush=True)

    def _help(self, _: str) -> None:
        for name, (_action, what) in self.commands.items():
            print(f"{name:12} {what}", file=sys.stderr)

    def _exit(self) -> None:
        self.ended = True

    def _set(self, words: str) -> None:
        """One option of the answers to come; null takes it back."""
        name, _, text = words.partition(" ")
        if name:
            try:
                value = json.loads(text)
            except ValueError:
                value = text.strip()
            options = {key: one for key, one in {**self.options, name: value}.items() if one is not None}
            self.model.prepare([0], **options)  # refuses what it is not, now and not with the next answer
            self.options = options
        self._tell(", ".join(f"{key} {value}" for key, value in self.options.items()) or "nothing is set")

    def _reset(self) -> None:
        first = self.session.messages[:1]
        self._system(str(first[0]["content"]) if first and first[0]["role"] == "system" else "")

    def _system(self, text: str) -> None:
        self.session = self._new(text or None)
        self._tell("a new conversation" + (f", with the system message: {text}" if text else ""))

    def _undo(self) -> None:
        taken = self.session.undo()
        self._tell(f"taken back: {taken[0]['content']}")

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save needs a file", hint="/save talk.session")
        self.session.save(Path(name).expanduser())
        self._tell(f"saved {len(self.session.messages)} messages to {name}")

    def _load(self, name: str) -> None:
        if not name:
            raise UsageError("/load needs a file", hint="/load talk.session")
        self.session = self.model.restore(Path(name).expanduser())
        for message in self.session.messages:
            print(f"{'> ' if message['role'] == 'user' else ''}{message['content']}")

    def _stats(self) -> None:
        if self.last is not None:
            self._tell(describe_timings(self.last.timings))
        kept, context = self.model.reuse, self.model.context
        used = self.last.usage["total_tokens"] if self.last is not None else 0
        self._tell(f"context {used} of {context} tokens, {len(self.session.messages)} messages")
        steps = self.model.steps
        self._tell(f"{steps.steps} steps, {steps.rows / max(1, steps.steps):.1f} rows each, {steps.shared} shared")
        if steps.experts.asked:
            read, asked = steps.experts.read, steps.experts.asked
            self._tell(f"experts read for answers {read}, asked for {asked}: {steps.experts.union_share:.0%}")
        self._tell(f"kept for reuse {kept.nbytes / 1e6:.1f} MB, {kept.tokens_reused} prompt tokens not computed again")
        if self.model.paging is not None:
            paging = self.model.paging
            self._tell(
                f"experts in memory {paging.hit_rate:.1%}, {paging.bytes_read / 1e9:.2f} GB read since the start"
            )


def _as_json(answer: Completion) -> dict[str, Any]:
    return {
        "text": answer.text,
        "usage": answer.usage,
        "timings": timings_json(answer.timings),
        "finish_reason": answer.finish_reason,
        "tool_calls": [asdict(call) for call in answer.tool_calls],
    }
