"""`edge-lfm quantize`: a Hugging Face checkpoint or a GGUF file in, a packed model out."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar, whole_time
from edge_lfm.model.sizes import SizeReport
from edge_lfm.quantize.convert import convert, plan_conversion
from edge_lfm.quantize.output import JOURNAL, stage_of
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.report import ConversionReport


def run(args: argparse.Namespace) -> None:
    recipe = find_recipe(args.recipe) if args.recipe else None
    if args.dry_run:
        sizes = plan_conversion(args.source, recipe)
        if args.json:
            print_json(asdict(sizes))
        else:
            print(describe_sizes(sizes))
        return
    try:
        report = convert(
            args.source,
            args.output,
            recipe,
            calibration=args.calibration,
            target=args.target,
            resume=args.resume,
            force=args.force,
            threads=args.threads,
            progress=progress_bar("quantizing"),
            estimate=_announce,
        )
    except (KeyboardInterrupt, SystemExit, MemoryError):
        if (stage_of(args.output) / JOURNAL).exists():
            print("\nedge-lfm: stopped; the same command with --resume goes on", file=sys.stderr)
        raise
    show_report(report, args.output, args.json, f"edge-lfm chat {args.output}")


def _announce(seconds: float) -> None:
    """What a run of more than a minute will take."""
    if seconds >= 60:
        print(f"rounding by output error takes about {whole_time(seconds)}", file=sys.stderr)


def show_report(report: ConversionReport, output: Path, as_json: bool, following: str) -> None:
    """Print what was made, and the command that may follow; warn of what is missing."""
    for warning in report.warnings:
        print(f"edge-lfm: warning: {warning}", file=sys.stderr)
    if as_json:
        print_json(asdict(report))
        return
    print(f"{output}: {describe_sizes(report.size)}")
    for kind, error in report.relative_rmse_by_class.items():
        print(f"  {kind:10} relative error {error:.4f}")
    if not report.feedback_kept.endswith("of 0"):
        print(f"  error feedback kept for {report.feedback_kept} matrices")
    print(f"  {report.seconds:.1f} s, peak memory {gigabytes(report.peak_memory_bytes)}")
    print(f"next: {following}")


def describe_sizes(sizes: SizeReport) -> str:
    """Several lines: parameters, file, bits per weight, bytes per token, bytes by class."""
    lines = [
        f"{sizes.parameters:,} parameters, {sizes.active_parameters:,} active",
        f"  {gigabytes(sizes.file_bytes)} in the file, {sizes.bits_per_weight:.3f} bits per weight, "
        f"{gigabytes(sizes.bytes_per_token)} read per token",
    ]
    lines += [
        f"  {kind:10} {gigabytes(count):>10}, {sizes.bits_by_class[kind]:.2f} bits per weight"
        for kind, count in sizes.bytes_by_class.items()
    ]
    return "\n".join(lines)
