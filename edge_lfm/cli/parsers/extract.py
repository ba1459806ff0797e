"""What `edge-lfm extract` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import add_model, add_model_arguments, add_sampling_arguments, add_template_argument

EXAMPLE = "edge-lfm extract --schema order.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--schema", required=True, metavar="FILE", help="the JSON schema of an object")
    parser.add_argument("--prompt", metavar="TEXT", help="what to ask for (default: JSON with the schema's keys)")
    parser.add_argument("--soft", type=int, metavar="N", help="check answers instead of binding them; at most N tries")
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_template_argument(parser)
    parser.add_argument("--json", action="store_true", help="the same: the output is JSON in any case")
