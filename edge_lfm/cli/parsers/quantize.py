"""What `edge-lfm quantize` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE, recipe_names, summary_of

EXAMPLE = "edge-lfm quantize LFM2-24B-A2B -o lfm2-24b --recipe balanced"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, help="folder of the checkpoint (config.json and safetensors), or GGUF file"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    add_recipe_argument(parser, None, "; default: balanced, or nearest to how the source is quantized")
    parser.add_argument("--calibration", type=Path, metavar="FOLDER", help="what edge-lfm calibrate made")
    parser.add_argument("--target", type=Path, metavar="MODEL", help="of a drafter: the packed model that it is for")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--force", action="store_true", help="replace the output if it is a model")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the cores of this machine)")
    parser.add_argument("--dry-run", action="store_true", help="check the checkpoint and print sizes only")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def add_recipe_argument(parser: argparse.ArgumentParser, default: str | None = DEFAULT_RECIPE, more: str = "") -> None:
    recipes = "; ".join(f"{name}: {summary_of(name)}" for name in recipe_names())
    parser.add_argument("--recipe", default=default, metavar="NAME", help=f"a .toml file, or {recipes}{more}")
