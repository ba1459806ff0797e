"""`edge-lfm rm`: delete a model that was pulled."""

from __future__ import annotations

import argparse

from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.cli.local_models import remove_model


def run(args: argparse.Namespace) -> None:
    freed = remove_model(args.name)
    if args.json:
        print_json({"name": args.name, "bytes": freed})
    else:
        print(f"{args.name}: {gigabytes(freed)} freed")
