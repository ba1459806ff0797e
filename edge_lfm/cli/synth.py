"""`edge-lfm synth`: a packed model of a published one's exact shape, with random weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.arguments import progress_bar
from edge_lfm.cli.quantize import add_recipe_argument, show_report
from edge_lfm.quantize.families import PUBLISHED, family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.synth import synthesize

EXAMPLE = "edge-lfm synth lfm2-24b-a2b -o synth-24b --recipe balanced"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shape", metavar="SHAPE", help=", ".join(PUBLISHED))
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    add_recipe_argument(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--force", action="store_true", help="replace the output if it is a model")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> None:
    report = synthesize(
        family_config(args.shape),
        args.output,
        find_recipe(args.recipe),
        force=args.force,
        seed=abs(args.seed),
        progress=progress_bar("writing"),
    )
    show_report(report, args.output, args.json, f"edge-lfm bench {args.output}")
