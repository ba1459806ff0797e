"""`edge-lfm export`: a model in the format of another runtime."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar
from edge_lfm.export.gguf import TYPES, write_gguf
from edge_lfm.export.source import open_source

HELP = "write a model as a GGUF file for llama.cpp"
EXAMPLE = "edge-lfm export lfm2-24b-int4 --format gguf -o lfm2-24b.gguf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="packed model, folder of a checkpoint, or GGUF file")
    parser.add_argument("--format", required=True, choices=("gguf",), help="what to write")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to make")
    parser.add_argument(
        "--type",
        metavar="TYPE",
        help=f"of a GGUF file's matrices: {', '.join(TYPES)} (default: what loses least of the model's own)",
    )
    parser.add_argument("--force", action="store_true", help="replace the output")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> None:
    with open_source(args.model) as source:
        report = write_gguf(source, args.output, args.type, args.force, progress_bar("writing"))
    if args.json:
        print_json(asdict(report))
        return
    print(f"{args.output}: {gigabytes(report.file_bytes)}")
    for kind, type_name in report.types.items():
        lost = report.relative_rmse.get(kind)
        print(
            f"  {kind:10} {type_name}" + ("" if lost is None else f", relative error {lost:.4f}" if lost else ", exact")
        )
