"""`edge-lfm list`: the models that are found by name."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.cli.local_models import local_models
from edge_lfm.paths import models_folder


def run(args: argparse.Namespace) -> None:
    models = list(local_models())
    if args.json:
        print_json([asdict(model) | {"folder": str(model.folder)} for model in models])
        return
    if not models:
        print(f"no models in {models_folder()}; get one: edge-lfm pull OWNER/NAME --quantize balanced", file=sys.stderr)
    for model in models:
        state = model.recipe if model.finished else "unfinished: pull it again"
        print(f"{model.name:40} {gigabytes(model.nbytes):>10}  {state}")
