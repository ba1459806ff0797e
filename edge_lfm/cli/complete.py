"""`edge-lfm complete FILE:LINE`: what belongs at the end of a line, from the text before and after it."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.arguments import add_model_arguments, add_sampling_arguments, open_model, print_json, sampling_of
from edge_lfm.errors import UsageError

HELP = "fill in code or text at a line of a file"
EXAMPLE = "edge-lfm complete program.py:12"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="FILE:LINE", help="the end of this line; FILE alone is the end of the file")
    parser.add_argument("--model", help="folder of a packed model (default: the embedded demo model)")
    parser.add_argument(
        "--lines",
        choices=("one", "block", "all"),
        default="block",
        help="stop at the end of the line, at a blank line (default), or where the model ends",
    )
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    before, after = split(args.place)
    stops = {"one": ["\n"], "block": ["\n\n"], "all": []}[args.lines]
    options = sampling_of(args)
    options["stop"] = [*stops, *options.pop("stop", [])]
    with open_model(args.model, args) as model:
        answer = model.complete(before, after, max_tokens=args.max_tokens, **options)
    if args.json:
        print_json({"text": answer.text, "finish_reason": answer.finish_reason, "usage": answer.usage})
    else:
        print(answer.text)


def split(place: str) -> tuple[str, str]:
    """The text of a file before and after the end of a line.

    Raises:
        UsageError: there is no such file or line, or it is no UTF-8.
    """
    name, _, number = place.rpartition(":")
    if not name or not number.isdigit():
        name, number = place, ""
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read: {error}", hint="give FILE:LINE") from None
    line = int(number) if number else len(lines)
    if not 0 <= line <= len(lines):
        raise UsageError(f"{name} has {len(lines)} lines, not {line}", hint="lines count from 1; 0 is the start")
    before = "".join(lines[:line])
    ended = before.endswith("\n") and number != ""
    return before.removesuffix("\n") if ended else before, ("\n" if ended else "") + "".join(lines[line:])
