"""What `edge-lfm synth` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.parsers.quantize import add_recipe_argument
from edge_lfm.quantize.families import PUBLISHED

EXAMPLE = "edge-lfm synth lfm2-24b-a2b -o synth-24b --recipe balanced"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shape", metavar="SHAPE", help=", ".join(PUBLISHED))
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    add_recipe_argument(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--force", action="store_true", help="replace the output if it is a model")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
