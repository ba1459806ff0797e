"""What `edge-lfm run` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import add_model, add_model_arguments, add_sampling_arguments, add_template_argument

EXAMPLE = 'edge-lfm run lfm2-24b-int4 "What is C. elegans?"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("prompt", nargs="?", help="the prompt, behind what is piped in (default: standard input)")
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_template_argument(parser)
    parser.add_argument("--system", help="a system message")
    parser.add_argument(
        "--answers", type=int, default=1, metavar="N", help="answers to make together, each drawn with the next seed"
    )
    parser.add_argument("--raw", action="store_true", help="take the prompt as it is, without the chat template")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")
