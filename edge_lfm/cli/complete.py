"""`edge-lfm complete FILE:LINE`: what belongs at the end of a line, from the text before and after it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from edge_lfm.cli.arguments import (
    open_model,
    print_json,
    sampling_of,
)
from edge_lfm.errors import ModelFileError, UsageError
from edge_lfm.formats.strict import read_text

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
"""As editors, compilers and grep count: LF, CR LF or CR end a line; form feeds, U+2028 and the like do not."""
_MAX_DIGITS = 12


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
    if not name or not (number.isascii() and number.isdigit()):
        name, number = place, ""
    try:
        lines = _LINE.findall(read_text(Path(name)))
    except ModelFileError as error:
        raise UsageError(error.message, hint="give FILE:LINE") from None
    if len(number) > _MAX_DIGITS or int(number or 0) > len(lines):
        raise UsageError(f"{name} has {len(lines)} lines, not {number:.20}", hint="lines count from 1; 0 is the start")
    line = int(number) if number else len(lines)
    before, end = "".join(lines[:line]), ""
    if number:
        body = before.rstrip("\r\n") if not line else "".join(lines[: line - 1]) + lines[line - 1].rstrip("\r\n")
        before, end = body, before[len(body) :]
    return before, end + "".join(lines[line:])
