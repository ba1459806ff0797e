"""`edge-lfm pull`: a checkpoint, or one GGUF file, from a Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.pull import pull

HELP = "download a model from Hugging Face"
EXAMPLE = "edge-lfm pull LiquidAI/LFM2-24B-A2B"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", help="the repository, like LiquidAI/LFM2-24B-A2B")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to put it (default: its name, here)")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: main)")
    parser.add_argument("--file", metavar="NAME.gguf", help="fetch one GGUF file only")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> None:
    folder = args.output or Path(args.repo.rpartition("/")[2] or "model")
    try:
        pulled = pull(args.repo, folder, args.revision, args.file, quiet=not sys.stderr.isatty())
    except KeyboardInterrupt:
        print("\nedge-lfm: stopped; the same command goes on", file=sys.stderr)
        raise
    if args.json:
        print_json(asdict(pulled) | {"bytes": pulled.nbytes})
        return
    source = folder / args.file if args.file else folder
    print(f"{source}: {gigabytes(pulled.nbytes)} in {len(pulled.files)} files of {pulled.repo} at {pulled.commit[:12]}")
    print(f"next: edge-lfm quantize {source} -o {folder.name}-packed")
