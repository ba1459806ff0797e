"""What `edge-lfm compile` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "edge-lfm compile --target rpi5 -o kernels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", nargs="+", default=[], metavar="NAME", help="devices, processors or ISA tiers")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to write them")
    parser.add_argument("--list", action="store_true", help="list the targets")
    parser.add_argument("--json", action="store_true", help="print JSON")
