"""What `edge-lfm bundle` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.parsers.options import add_model, model_path

EXAMPLE = "edge-lfm bundle lfm2-24b --target rpi5-8g -o lfm2-24b-rpi5.tar"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, model_path, "folder of a packed model (default: no model)")
    parser.add_argument("--target", required=True, metavar="NAME", help="a device, a processor or an ISA tier")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="PATH", help="a folder, or a file.tar")
    parser.add_argument(
        "--python",
        default="3.11",
        metavar="VERSION",
        help="the board's Python (default 3.11, of Debian 12; 13 has 3.13)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
