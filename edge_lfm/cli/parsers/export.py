"""What `edge-lfm export` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.parsers.options import model_path
from edge_lfm.export.types import ACTIVATIONS, TYPES

EXAMPLE = "edge-lfm export lfm2-24b-int4 --format gguf -o lfm2-24b.gguf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=model_path, help="packed model; for GGUF also a checkpoint or a GGUF file")
    parser.add_argument("--format", required=True, choices=("gguf", "onnx"), help="what to write")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file (GGUF) or folder (ONNX) to make")
    parser.add_argument(
        "--type",
        metavar="TYPE",
        help=f"of a GGUF file's matrices: {', '.join(TYPES)} (default: what loses least of the model's own)",
    )
    parser.add_argument(
        "--activations",
        metavar="TYPE",
        help=f"of an ONNX graph: {' or '.join(ACTIVATIONS)} (default int8: fast; float32: exact)",
    )
    parser.add_argument("--force", action="store_true", help="replace the output")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
