"""`edge-lfm run`: one prompt in, one answer out, streamed."""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edge_lfm.api import Completion
from edge_lfm.cli.arguments import (
    describe_paging,
    describe_timings,
    open_model,
    print_json,
    sampling_of,
    show,
    timings_json,
)
from edge_lfm.cli.local_models import find_model
from edge_lfm.cli.text_files import read_stream
from edge_lfm.errors import UsageError
from edge_lfm.pull.hub import is_repository

_NAME = re.compile(r"[\w.~/][\w.:/@~+-]*", re.ASCII)
"""What may be the name of a model: no question has only these signs."""
_LONGEST_NAME = 255


def split_positionals(model: str | None, prompt: str | None) -> tuple[str | None, str | None]:
    """A lone argument is a model if it could be the name of one, and otherwise a prompt for the demo model.

    Raises:
        UsageError: it could be, and there is no such folder.
    """
    if model is None or prompt is not None or os.path.exists(model):
        return model, prompt
    if len(model) <= _LONGEST_NAME and _NAME.fullmatch(model):
        if is_repository(model) or os.path.exists(find_model(model)):
            return model, prompt
        hint = "give its folder; a prompt of one word comes through standard input, or behind a model"
        raise UsageError(f"there is no model {model}", hint=hint)
    return None, model


def read_prompt(prompt: str | None) -> str:
    """The prompt, standard input, or both: what is piped in stands before what is asked of it.

    Raises:
        UsageError: there is neither, or the input is no text.
    """
    given = [_standard_input()] if prompt is None or _is_piped() else []
    whole = "\n\n".join(text for text in (*given, prompt) if text)
    if not whole:
        raise UsageError("the prompt is empty", hint="give some text")
    return whole


def _is_piped() -> bool:
    """Whether standard input is a file or a pipe: of what a program leaves open as a socket, no end may ever come."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _standard_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("there is no prompt", hint="give one as an argument, or pipe text in")
    return read_stream(sys.stdin.buffer, "standard input").rstrip("\n")


def run(args: argparse.Namespace) -> None:
    folder, prompt = split_positionals(args.model, args.prompt)
    prompt = read_prompt(prompt)
    options = {"system": args.system, "raw": args.raw, "max_tokens": args.max_tokens, **sampling_of(args)}
    with open_model(folder, args) as model:
        if args.answers != 1:
            _show_several(model.generate_several(prompt, args.answers, **options), args.json)
            return
        generation = model.stream(prompt, **options)
        show(generation, quiet=args.json, paging=model.paging)
        answer = generation.result()
        if args.json:
            print_json(_answer_json(answer) | {"paging": model.paging.to_json() if model.paging else None})
            return
        print(flush=True)
        print(describe_timings(answer.timings), file=sys.stderr)
        if model.paging:
            tokens = answer.timings.prompt_tokens + answer.timings.completion_tokens
            print(describe_paging(model.paging, tokens), file=sys.stderr)


def _show_several(answers: Sequence[Completion], as_json: bool) -> None:
    """Answers to one prompt; as text, a line of dashes between two."""
    if as_json:
        print_json([_answer_json(answer) for answer in answers])
        return
    print("\n---\n".join(answer.text for answer in answers), flush=True)
    for answer in answers:
        print(describe_timings(answer.timings), file=sys.stderr)


def _answer_json(answer: Completion) -> dict[str, Any]:
    return {
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "usage": answer.usage,
        "timings": timings_json(answer.timings),
        "finish_reason": answer.finish_reason,
        "tool_calls": [asdict(call) for call in answer.tool_calls],
    }
