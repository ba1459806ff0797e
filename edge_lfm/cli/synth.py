"""`edge-lfm synth`: a packed model of a published one's exact shape, with random weights."""

from __future__ import annotations

import argparse

from edge_lfm.cli.arguments import progress_bar
from edge_lfm.cli.quantize import show_report
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.synth import synthesize


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
