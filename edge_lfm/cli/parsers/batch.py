"""What `edge-lfm batch` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.parsers.options import add_model, add_model_arguments

EXAMPLE = "edge-lfm batch requests.jsonl -o answers.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("requests", type=Path, metavar="FILE", help="requests, one a line: custom_id, url, body")
    add_model(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="answers, one a line")
    parser.add_argument("--name", help="the model's name in the requests (default: the folder's)")
    parser.add_argument("--ray", metavar="ADDRESS", help="answer on every machine of a Ray cluster: auto, or HOST:PORT")
    add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
