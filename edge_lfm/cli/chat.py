"""`edge-lfm chat`: a conversation in the terminal; plain lines in and answers out when piped."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from edge_lfm.api import Session
from edge_lfm.cli.arguments import (
    add_model_arguments,
    add_sampling_arguments,
    describe_paging,
    describe_timings,
    open_model,
    prefill_bar,
    print_json,
    sampling_of,
    timings_json,
)

HELP = "hold a conversation"
EXAMPLE = "edge-lfm chat lfm2-24b-int4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="folder of a packed model (default: the embedded demo model)")
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--echo", action="store_true", help="show piped lines before their answers")
    parser.add_argument("--json", action="store_true", help="print one JSON object per answer")


def run(args: argparse.Namespace) -> None:
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401 (line editing and history for input())
    with open_model(args.model, args) as model:
        session = model.session()
        messages: list[dict[str, Any]] = [{"role": "system", "content": args.system}] if args.system else []
        if terminal:
            print(
                f"{model.folder.name}, {model.isa}, {model.threads} threads; Ctrl-C stops an answer, Ctrl-D ends",
                file=sys.stderr,
            )
        while True:
            try:
                line = input("> " if terminal else "")
            except EOFError:
                return
            except KeyboardInterrupt:
                print(file=sys.stderr)
                continue
            if not line.strip():
                continue
            if args.echo and not terminal:
                print(f"> {line}")
            messages.append({"role": "user", "content": line})
            messages.append({"role": "assistant", "content": _answer(session, messages, args)})


def _answer(session: Session, messages: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """Stream one answer; the text that came before Ctrl-C, if that stopped it."""
    paging = session.model.paging
    before = paging.copy() if paging is not None else None
    generation = session.generate(messages, max_tokens=args.max_tokens, progress=prefill_bar(), **sampling_of(args))
    text = []
    try:
        for piece in generation:
            text.append(piece)
            if not args.json:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print(" [stopped]", flush=True)
        return "".join(text)
    answer = generation.result()
    if args.json:
        print_json(
            {
                "text": answer.text,
                "usage": answer.usage,
                "timings": timings_json(answer.timings),
                "finish_reason": answer.finish_reason,
            }
        )
    else:
        print(flush=True)
        print(f"[{describe_timings(answer.timings)}]", file=sys.stderr, flush=True)
        if paging is not None and before is not None:
            t = answer.timings
            computed = t.prompt_tokens - t.cached_tokens + t.completion_tokens
            print(f"[{describe_paging(paging.since(before), computed)}]", file=sys.stderr, flush=True)
    return answer.text
