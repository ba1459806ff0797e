"""What several verbs do: a model opened as its options say, sampling, progress, reports."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from tqdm import tqdm

from edge_lfm.api import Generation, LoadOptions, Model, PagingStats, Progress, Reasoning, Text, Timings, ToolCall
from edge_lfm.cli.live import LiveLine
from edge_lfm.cli.local_models import settle_model
from edge_lfm.text.tool_calls import Call, write_calls

_ANSWERING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "dry_multiplier",
    "xtc_probability",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "bad_words",
    "seed",
    "lookup",
    "max_drafts",
    "reasoning_effort",
    "chat_template_kwargs",
)


def load_options_of(folder: str | None, args: argparse.Namespace) -> LoadOptions:
    """What the arguments of `add_model_arguments` say; `folder`: a folder, or the name of a model (`settle_model`)."""
    given = {f.name: getattr(args, f.name) for f in fields(LoadOptions) if f.name != "path"}
    return LoadOptions(settle_model(folder, progress_bar("pulling")), **given)


def open_model(folder: str | None, args: argparse.Namespace) -> Model:
    """Load a model as the arguments of `add_model_arguments` say."""
    return Model.open(load_options_of(folder, args))


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of an answer that were given."""
    return {name: value for name in _ANSWERING if (value := getattr(args, name, None)) is not None}


def progress_bar(label: str, unit: str = "B") -> Callable[[int], Callable[[int], object]]:
    """`total -> (amount -> ...)`: a bar on standard error with amount, rate and time left.

    It appears after half a second, and only on a terminal.
    """

    def start(total: int) -> Callable[[int], object]:
        bar = tqdm(
            total=total, desc=label, unit=unit, unit_scale=True, delay=0.5, file=sys.stderr, leave=False, disable=None
        )
        update: Callable[[int], object] = bar.update
        return update

    return start


def prefill_bar(paging: PagingStats | None = None) -> Callable[[Progress], object]:
    """A bar for the prompt, gone when it is read; with what experts cost, when they are paged."""
    before = paging.copy() if paging else None
    bar = tqdm(desc="reading the prompt", unit="tok", delay=0.5, file=sys.stderr, leave=False, disable=None)

    def show(progress: Progress) -> None:
        bar.total, bar.initial = progress.total, progress.cached
        if paging and before:
            since = paging.since(before)
            bar.set_postfix_str(f"experts {since.hit_rate:.0%} in memory, {since.bytes_read / 1e9:.1f} GB read", False)
        bar.update(progress.done - bar.n)
        if progress.done >= progress.total:
            bar.close()

    return show


def show(generation: Generation, quiet: bool = False, paging: PagingStats | None = None) -> None:
    """Run an answer to its end: its text on standard output as it comes, reasoning dimmed on standard error.

    `quiet`: nothing but what shows progress; `paging`: the model's counters, to be shown with it.
    """
    bar, dim = prefill_bar(paging), ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    live: LiveLine | None = None
    try:
        for event in generation:
            match event:
                case Progress():
                    bar(event)
                case Text(text) if not quiet:
                    print(text, end="", flush=True)
                case Reasoning(text) if not quiet:
                    print(f"{dim[0]}{text}{dim[1]}", end="", file=sys.stderr, flush=True)
                case ToolCall(name, arguments) if not quiet:
                    print(write_calls([Call(name, arguments)]), flush=True)
            if paging and not isinstance(event, Progress):
                live = live or LiveLine(paging)
                live.part()
    finally:
        if live is not None:
            live.close()


def describe_timings(t: Timings) -> str:
    """One line: tokens and tokens per second of prompt and answer, drafts, and the company of other answers."""
    cached = f" + {t.cached_tokens} cached" if t.cached_tokens else ""
    drafts = ""
    if t.drafted and t.steps:
        drafts = f", {t.accepted} of {t.drafted} drafts taken, {(t.completion_tokens - 1) / t.steps:.2f} tokens a step"
    company = f", {t.rows_per_step:.1f} rows a step" if t.rows > t.steps else ""
    if company and t.experts.asked:
        company += f" that read {t.experts.union_share:.0%} of their experts"
    return (
        f"prompt {t.prompt_tokens - t.cached_tokens}{cached} tokens, {t.prefill_tps:.1f} tok/s; "
        f"answer {t.completion_tokens} tokens, {t.decode_tps:.1f} tok/s{drafts}{company}"
    )


def describe_paging(paging: PagingStats, tokens: int) -> str:
    """One line: how often experts were in memory, and what the others cost."""
    per_token = paging.bytes_read / max(1, tokens) / 1e6
    return (
        f"experts in memory {paging.hit_rate:.1%}, {per_token:.1f} MB read per token, "
        f"{paging.stall_s.sum():.2f} s waited for the disk"
    )


def timings_json(t: Timings) -> dict[str, Any]:
    rates = {"prefill_tps": t.prefill_tps, "decode_tps": t.decode_tps, "rows_per_step": t.rows_per_step}
    return asdict(t) | rates | {"union_share": t.experts.union_share}


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def gigabytes(count: int) -> str:
    """Bytes for people: GB with two digits, or MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def whole_time(seconds: float) -> str:
    """A time for people: whole minutes, from two hours on half hours."""
    if seconds < 7200:
        return f"{max(1, round(seconds / 60))} min"
    return f"{round(seconds / 1800) / 2:g} h"
