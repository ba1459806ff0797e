"""What `edge-lfm inspect` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import add_model, model_path

EXAMPLE = "edge-lfm inspect lfm2-24b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, model_path, "folder or GGUF file (default: the demo model)")
    parser.add_argument("--json", action="store_true", help="print JSON")
