"""`edge-lfm pull`: a checkpoint, or one GGUF file, from a Hugging Face hub; or a packed model made of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar
from edge_lfm.cli.quantize import show_report
from edge_lfm.errors import UsageError
from edge_lfm.paths import models_folder
from edge_lfm.pull import Pulled, pull, pull_quantized
from edge_lfm.pull.hub import Address, read_address
from edge_lfm.quantize.recipe import find_recipe


def run(args: argparse.Namespace) -> None:
    address = read_address(args.repo, args.revision, args.file)
    try:
        if args.quantize is not None:
            _run_quantized(args, address)
        else:
            _run_plain(args, address)
    except KeyboardInterrupt:
        print("\nedge-lfm: stopped; the same command goes on", file=sys.stderr)
        raise


def _run_plain(args: argparse.Namespace, address: Address) -> None:
    folder = args.output or Path(address.repo.rpartition("/")[2] or "model")
    quiet = not sys.stderr.isatty()
    pulled = pull(address.repo, folder, address.revision, address.file, address.endpoint, quiet)
    if args.json:
        print_json(asdict(pulled) | {"bytes": pulled.nbytes})
        return
    source = folder / address.file if address.file else folder
    _show(pulled, source)
    print(f"next: edge-lfm quantize {source} -o {folder.name}-packed")


def _run_quantized(args: argparse.Namespace, address: Address) -> None:
    if address.file is not None:
        raise UsageError("--quantize is for checkpoints", hint="pull the file, and give it to edge-lfm quantize")
    output = args.output or models_folder() / address.repo
    report = pull_quantized(
        address.repo,
        output,
        find_recipe(args.quantize),
        address.revision,
        address.endpoint,
        args.force,
        progress_bar("pulling and quantizing"),
    )
    name = output if args.output else address.repo.rpartition("/")[2]
    if not isinstance(report, Pulled):
        show_report(report, output, args.json, f"edge-lfm chat {name}")
    elif args.json:
        print_json(asdict(report) | {"bytes": report.nbytes})
    else:
        print(f"edge-lfm: warning: {address.repo} is packed already: it came as it is", file=sys.stderr)
        _show(report, output)
        print(f"next: edge-lfm chat {name}")


def _show(pulled: Pulled, source: Path) -> None:
    what = f"{gigabytes(pulled.nbytes)} in {len(pulled.files)} files"
    print(f"{source}: {what} of {pulled.repo} at {pulled.commit[:12]}")
