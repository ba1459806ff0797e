"""What `edge-lfm devices` is told."""

from __future__ import annotations

import argparse

EXAMPLE = "edge-lfm devices --detect"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detect", action="store_true", help="look at this machine and measure it")
    parser.add_argument("--json", action="store_true", help="print JSON")
