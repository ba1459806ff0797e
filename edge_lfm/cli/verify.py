"""`edge-lfm verify`: whether every block of a packed model is as it was written."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar
from edge_lfm.demo import packed_demo
from edge_lfm.errors import ModelFileError
from edge_lfm.model.packed_model import PackedModel

HELP = "read every block of a packed model and check its checksum"
EXAMPLE = "edge-lfm verify lfm2-24b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, help="folder of a packed model (default: the demo model)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    with PackedModel(args.model or packed_demo()) as model:
        total = sum(piece.nbytes for piece in model.pieces.values())
        broken = model.verify(progress_bar("verifying")(total))
        if args.json:
            print_json({"model": str(model.folder), "blocks": len(model.pieces), "bytes": total, "damaged": broken})
        if broken:
            raise ModelFileError(
                f"{model.folder}: {len(broken)} of {len(model.pieces)} blocks are damaged, the first is {broken[0]}",
                hint="copy the model again, or quantize it anew",
            )
        if not args.json:
            print(f"{model.folder}: all {len(model.pieces)} blocks, {gigabytes(total)}, are as they were written")
