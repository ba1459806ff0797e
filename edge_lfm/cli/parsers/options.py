"""Options that several verbs have: where a model comes from, memory and threads, sampling."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_lfm.errors import EdgeLfmError

_FOLDER = "folder of a packed model (default: the embedded demo model)"


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


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--max-tokens", type=int, default=512, metavar="N", help="the most tokens to generate")
    parser.add_argument("--temp", dest="temperature", type=float, metavar="T", help="temperature; 0 is greedy")
    parser.add_argument("--top-k", type=int, metavar="K", help="keep the K most likely tokens; 0 keeps all")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that sum to P")
    parser.add_argument("--min-p", type=float, metavar="P", help="drop tokens below P times the likeliest")
    parser.add_argument("--repeat-penalty", type=float, metavar="R", help="make tokens seen before less likely")
    parser.add_argument(
        "--presence-penalty",
        type=float,
        metavar="P",
        help="subtract P from the logit of each token that the answer has already",
    )
    parser.add_argument(
        "--frequency-penalty", type=float, metavar="P", help="subtract P for each time that the answer has the token"
    )
    parser.add_argument(
        "--dry",
        dest="dry_multiplier",
        type=float,
        metavar="M",
        help="DRY: the strength of the penalty on repeated sequences",
    )
    parser.add_argument(
        "--xtc",
        dest="xtc_probability",
        type=float,
        metavar="P",
        help="XTC: how often the likeliest tokens are left out",
    )
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer at TEXT (may be repeated)")
    parser.add_argument(
        "--stop-token",
        dest="stop_token_ids",
        action="append",
        type=int,
        metavar="ID",
        help="end the answer at the token ID (may be repeated)",
    )
    parser.add_argument("--min-tokens", type=int, metavar="N", help="tokens before which nothing ends the answer")
    parser.add_argument(
        "--ignore-eos", action="store_true", default=None, help="go on past the model's own end, to --max-tokens"
    )
    parser.add_argument(
        "--bad-word",
        dest="bad_words",
        action="append",
        metavar="TEXT",
        help="a text that the answer may not have (may be repeated)",
    )
    parser.add_argument("--lookup", type=int, metavar="N", help="draft up to N tokens a step from the text so far")
    parser.add_argument(
        "--max-drafts", type=int, metavar="N", help="the drafter's drafts in each step (default: as many as pay)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="the same seed draws the same text")


def add_template_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reasoning-effort",
        metavar="HOW",
        help="how much to think, for models that can be told: low, medium or high",
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
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a JSON object")
    return value


def find_model(text: str) -> str | None:
    """The folder that a word names (`local_models.find_model`), looked up where there is a word; None, as no word is,
    for the embedded demo model."""
    from edge_lfm.cli import local_models

    try:
        found = local_models.find_model(text)
        return None if local_models.names_demo(found) else found
    except EdgeLfmError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def model_path(text: str) -> Path | None:
    """`find_model` as a path."""
    found = find_model(text)
    return None if found is None else Path(found)
