"""What `edge-lfm calibrate` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "edge-lfm calibrate LFM2-24B-A2B --text calibration.txt -o lfm2-24b-calibration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder of the checkpoint (config.json, safetensors, tokenizer.json)")
    parser.add_argument(
        "--text", type=Path, required=True, metavar="FILE", help="UTF-8 text like what the model is for"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--tokens", type=int, default=262144, metavar="N", help="the most tokens to use (default 262144)"
    )
    parser.add_argument("--window", type=int, default=512, metavar="N", help="tokens of a sequence (default 512)")
    parser.add_argument(
        "--keep-inputs",
        action="store_true",
        help="also keep the experts' inputs, for error feedback on experts; 24B: 0.16 MB a token",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same arguments")
    parser.add_argument("--force", action="store_true", help="replace the output if it is a calibration")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
