"""What `edge-lfm complete` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import add_model_arguments, add_model_option, add_sampling_arguments

EXAMPLE = "edge-lfm complete program.py:12"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="FILE:LINE", help="the end of this line; FILE alone is the end of the file")
    add_model_option(parser)
    parser.add_argument(
        "--lines",
        choices=("one", "block", "all"),
        default="block",
        help="stop at the end of the line, at a blank line (default), or where the model ends",
    )
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
