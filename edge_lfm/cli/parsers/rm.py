"""What `edge-lfm rm` is told."""

from __future__ import annotations

import argparse

EXAMPLE = "edge-lfm rm LFM2-24B-A2B"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="as edge-lfm list shows it")
    parser.add_argument("--json", action="store_true", help="print JSON")
