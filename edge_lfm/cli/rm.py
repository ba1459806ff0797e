"""`edge-lfm rm`: delete a model that was pulled."""

from __future__ import annotations

import argparse

from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.cli.local_models import remove_model

EXAMPLE = "edge-lfm rm LFM2-24B-A2B"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="as edge-lfm list shows it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    freed = remove_model(args.name)
    if args.json:
        print_json({"name": args.name, "bytes": freed})
    else:
        print(f"{args.name}: {gigabytes(freed)} freed")
