"""What `edge-lfm pull` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "edge-lfm pull LiquidAI/LFM2-24B-A2B --quantize balanced"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", help="the repository, like LiquidAI/LFM2-24B-A2B, or its page's address")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to put it (default: its name, here)")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: main)")
    parser.add_argument("--file", metavar="NAME.gguf", help="fetch one GGUF file only")
    parser.add_argument(
        "--quantize",
        metavar="RECIPE",
        help="pack each tensor when it comes, so that the checkpoint never lies here (default folder: see list)",
    )
    parser.add_argument("--force", action="store_true", help="with --quantize: start anew, replace the output")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
