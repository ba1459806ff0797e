"""The picture of docs/quality.md: what recipes lose, by what a token of the 24B reads and by tokens a second.

    python benchmarks/frontier.py -o docs/images/frontier.png [--device rpi5-8g] [--here]

Losses are those that the recipes state, tokens a second what `edge-lfm fit` expects; --here: of this machine, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from edge_lfm.architectures import read_shape
from edge_lfm.cli.fit_recipes import frontier
from edge_lfm.quantize.families import family_config

MODEL = "lfm2-24b-a2b"


def speeds(*arguments: str) -> tuple[str, dict[str, tuple[float, float]]]:
    """The name of a device, and of each recipe that fits (tokens a second, loss)."""
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "fit", MODEL, "--json", *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    fitting = (choice for choice in found["recipes"] if choice["fits"])
    return found["device"]["name"], {c["recipe"]: (c["decode_tps"], c["loss"]) for c in fitting}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--device", default="rpi5-8g")
    parser.add_argument("--here", action="store_true")
    args = parser.parse_args()
    read = {name: (nbytes / 1e9, loss) for name, (nbytes, loss) in frontier(read_shape(family_config(MODEL))).items()}
    places = [speeds("--device", args.device)] + ([speeds()] if args.here else [])
    panels = [("GB read per token", read), *((f"tok/s, {name}", points) for name, points in places)]
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    for axes, (label, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(xlabel=label, ylabel="KL divergence over Q4_0's", yscale="log")
        for name, (x, loss) in points.items():
            axes.plot(x, loss, "o", color="tab:blue")
            axes.annotate(f" {name}", (x, loss), fontsize=8)
        axes.margins(x=0.15)
    figure.savefig(args.output, dpi=90)


if __name__ == "__main__":
    main()
