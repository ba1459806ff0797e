"""`edge-lfm calibrate`: send text through a checkpoint and note what its matrices get to see."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar, whole_time
from edge_lfm.cli.text_files import read_text
from edge_lfm.errors import UsageError
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.quantize.calibration import STATISTICS
from edge_lfm.quantize.collecting import CalibrationReport, collect
from edge_lfm.quantize.convert import check_room
from edge_lfm.quantize.cost import calibration_cost
from edge_lfm.quantize.output import check_output, staged_folder
from edge_lfm.text.windows import windows_of


def run(args: argparse.Namespace) -> None:
    if args.tokens < 1 or args.window < 2:
        raise UsageError("--tokens and --window", hint="give at least 1 token and windows of at least 2")
    check_output(args.output, args.source, args.force, STATISTICS)
    text = read_text(args.text)
    windows = windows_of(args.source, text, args.window, max(1, args.tokens // args.window))
    with staged_folder(args.output, args.resume, args.force, STATISTICS) as stage:
        _announce(args, sum(len(window) for window in windows), stage)
        raw = text.encode()
        report = collect(args.source, raw, windows, stage, args.keep_inputs, progress_bar("calibrating", "tok"))
    if args.json:
        print_json(asdict(report))
    else:
        _describe(report, args.output)


def _announce(args: argparse.Namespace, tokens: int, stage: Path) -> None:
    """What the run will take, and whether there is room for it."""
    with open_checkpoint(args.source) as checkpoint:
        cost = calibration_cost(checkpoint.describe(), tokens, args.keep_inputs)
    there = sum(path.stat().st_size for path in stage.iterdir())  # of an interrupted run
    check_room(stage, cost.file_bytes + cost.working_bytes - there)
    print(
        f"{tokens:,} tokens: about {whole_time(cost.seconds)}; {gigabytes(cost.file_bytes)} on disk, "
        f"and {gigabytes(cost.working_bytes)} until it is done",
        file=sys.stderr,
    )


def _describe(report: CalibrationReport, output: Path) -> None:
    print(f"{output}: {report.tokens:,} tokens")
    if not report.experts:
        return
    print(f"  {report.experts} experts, the least used one saw {report.fewest_tokens} tokens")
    for line in report.rare_experts[:10]:
        print(f"edge-lfm: warning: rarely used: {line}", file=sys.stderr)
    if len(report.rare_experts) > 10:
        print(f"edge-lfm: warning: and {len(report.rare_experts) - 10} more; use more text", file=sys.stderr)
