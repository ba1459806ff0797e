"""What `edge-lfm fit` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import find_model
from edge_lfm.quantize.families import PUBLISHED

MAX_LOSS = 0.6
"""The default limit: what `balanced` loses without a calibration."""
EXAMPLE = "edge-lfm fit lfm2-24b-a2b --device rpi5-8g"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=find_model,
        help=f"a packed model's folder, a checkpoint's folder, or one of {', '.join(PUBLISHED)}",
    )
    parser.add_argument("--device", metavar="ID", help="one of `edge-lfm devices`, as rpi5-8g (default: this machine)")
    parser.add_argument("--recipe", help="how it will be quantized (default: the fastest within --loss)")
    parser.add_argument(
        "--loss",
        type=float,
        default=MAX_LOSS,
        metavar="X",
        help=f"the most KL divergence that a recipe may have, Q4_0's being 1 (default: {MAX_LOSS})",
    )
    parser.add_argument("--ram", metavar="SIZE", help="memory that the model may take (default: what the device has)")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a conversation (default: as when loaded)")
    parser.add_argument("--storage", metavar="NAME", help="one of the device's kinds of storage")
    parser.add_argument("--uniform", action="store_true", help="reckon with random routing, as of synthetic models")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
