"""What `edge-lfm list` is told."""

from __future__ import annotations

import argparse

EXAMPLE = "edge-lfm list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
