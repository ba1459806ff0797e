"""What `edge-lfm verify` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import add_model, model_path

EXAMPLE = "edge-lfm verify lfm2-24b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, model_path, "folder of a packed model (default: the demo model)")
    parser.add_argument(
        "--accept", action="store_true", help="take config, tokenizer and template as they are now for right"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
