"""What `edge-lfm ask` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import (
    add_model_arguments,
    add_model_option,
    add_sampling_arguments,
    add_template_argument,
)

EXAMPLE = 'edge-lfm ask --doc manual.txt --doc notes.txt "How do I reset it?"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="?", help="the question (default: standard input)")
    add_model_option(parser)
    parser.add_argument("--doc", action="append", required=True, metavar="FILE", help="a text; may be repeated")
    parser.add_argument(
        "--questions", metavar="FILE", help="a question on each line (-: standard input); a line of JSON for each"
    )
    parser.add_argument("--no-cite", action="store_true", help="do not demand citations")
    parser.add_argument("--trim", action="store_true", help="cut documents that do not fit, and say so")
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_template_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")
