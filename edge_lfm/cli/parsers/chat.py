"""What `edge-lfm chat` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import add_model, add_model_arguments, add_sampling_arguments, add_template_argument

EXAMPLE = "edge-lfm chat lfm2-24b-int4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_template_argument(parser)
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--load", metavar="FILE", help="go on with a conversation that /save has written")
    parser.add_argument("--echo", action="store_true", help="show piped lines before their answers")
    parser.add_argument("--json", action="store_true", help="print one JSON object per answer")
