"""Arguments and output that several verbs share: where a model comes from, sampling, progress, reports."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, get_args

from tqdm import tqdm

from edge_lfm.api import Generation, LoadOptions, Model, PagingStats, Progress, Reasoning, Text, Timings, ToolCall
from edge_lfm.api.options import Effort
from edge_lfm.cli.live import LiveLine
from edge_lfm.cli.local_models import settle_model
from edge_lfm.text.tool_calls import Call, write_calls

_FOLDER = "folder of a packed model (default: the embedded demo model)"
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


def add_model(parser: argparse.ArgumentParser, kind: Callable[[str], Any] = str, what: str = _FOLDER) -> None:
    """Where the model is, as a word or behind -m (`parsing.py` puts both in one place)."""
    parser.add_argument("model", nargs="?", type=kind, help=what)
    parser.add_argument("-m", "--model", dest="named_model", type=kind, metavar="MODEL", help="the same, by name")


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Where the model is, for verbs whose words are something else."""
    parser.add_argument("-m", "--model", help=_FOLDER)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ram", metavar="SIZE", help="the most memory to use, like 4G (default: what is available)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the cores of this machine)")
    parser.add_argument("--context", type=int, metavar="N", help="the most tokens of a conversation")
    parser.add_argument("--kv-dtype", default="float16", metavar="TYPE", help="KV cache: float16 (default) or int8")
    parser.add_argument(
        "--cache", metavar="SIZE", help="the most memory, of that, to keep for reuse of earlier prompts"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="answers made at a time (default: as memory allows, at most 16; paged 1)",
    )
    parser.add_argument(
        "--token-wait",
        type=float,
        default=0.5,
        metavar="S",
        help="the most seconds that others' prompts add to an answer's next token (default 0.5)",
    )
    parser.add_argument(
        "--draft",
        metavar="FOLDER",
        help="a drafter that quantize --target made for this model (demo: the demo model's)",
    )
    parser.add_argument(
        "--routing",
        default="exact",
        metavar="HOW",
        help="when experts are paged: exact (default), or cached:0.9 to prefer experts in memory (other answers)",
    )

    parser.add_argument(
        "--paging",
        default="auto",
        metavar="HOW",
        help="how experts that do not fit come: read (past the system's cache), map (through it), auto",
    )
    add_backend_argument(parser)


def add_backend_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="native, or onnxruntime for a folder that export --format onnx made (default: what the model is for)",
    )


def load_options_of(folder: str | None, args: argparse.Namespace) -> LoadOptions:
    """What the arguments of `add_model_arguments` say; `folder`: a folder, or the name of a model (`settle_model`)."""
    given = {f.name: getattr(args, f.name) for f in fields(LoadOptions) if f.name != "path"}
    return LoadOptions(settle_model(folder, progress_bar("pulling")), **given)


def open_model(folder: str | None, args: argparse.Namespace) -> Model:
    """Load a model as the arguments of `add_model_arguments` say."""
    return Model.open(load_options_of(folder, args))


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--max-tokens", type=int, default=512, metavar="N", help="the most tokens to generate")
    parser.add_argument("--temp", dest="temperature", type=float, metavar="T", help="temperature; 0 is greedy")
    parser.add_argument("--top-k", type=int, metavar="K", help="keep the K most likely tokens; 0 keeps all")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that sum to P")
    parser.add_argument("--min-p", type=float, metavar="P", help="drop tokens below P times the likeliest")
    parser.add_argument("--repeat-penalty", type=float, metavar="R", help="make tokens seen before less likely")
    parser.add_argument("--presence-penalty", type=float, metavar="P", help="off the logits of tokens in the answer")
    parser.add_argument("--frequency-penalty", type=float, metavar="P", help="the same, for each time they came")
    parser.add_argument("--dry", dest="dry_multiplier", type=float, metavar="M", help="DRY: against repeated sequences")
    parser.add_argument(
        "--xtc", dest="xtc_probability", type=float, metavar="P", help="XTC: how often to be surprising"
    )
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer there (may be repeated)")
    parser.add_argument(
        "--stop-token", dest="stop_token_ids", action="append", type=int, metavar="ID", help="the same for a token"
    )
    parser.add_argument("--min-tokens", type=int, metavar="N", help="tokens before which nothing ends the answer")
    parser.add_argument(
        "--ignore-eos", action="store_true", default=None, help="go on past the model's own end, to --max-tokens"
    )
    parser.add_argument(
        "--bad-word", dest="bad_words", action="append", metavar="TEXT", help="what may not come (may be repeated)"
    )
    parser.add_argument("--lookup", type=int, metavar="N", help="draft up to N tokens a step from the text so far")
    parser.add_argument(
        "--max-drafts", type=int, metavar="N", help="the drafter's drafts in each step (default: as many as pay)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="the same seed draws the same text")


def add_template_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reasoning-effort", choices=get_args(Effort), help="how much to think, for models that can be told"
    )
    parser.add_argument(
        "--chat-template-kwargs",
        type=_json_object,
        metavar="JSON",
        help="switches of the model's chat template, like '{\"enable_thinking\": false}'",
    )


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no JSON object")
    return value


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
