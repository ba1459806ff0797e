"""The two backends side by side, in one interleaved run: this project's kernels, and onnxruntime on the exported graph.

    edge-lfm synth lfm2-8b-a1b -o build/8b-int4 --recipe int4
    python benchmarks/onnxruntime_backend.py build/8b-int4 --rounds 3

Each test runs in a process of its own; the two take turns, so that a slow minute of a shared machine hits both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_lfm.export.onnx import write_onnx
from edge_lfm.export.source import open_source
from edge_lfm.model.onnx_model import is_onnx


def measure(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """test -> tokens per second, and the peak memory."""
    command = [sys.executable, "-m", "edge_lfm.cli.main", "bench", str(model), "-p", args.prompt, "-n", args.generate,
               "-t", str(args.threads), "-r", "2", "--json"]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads(done.stdout)["results"]
    return {row["test"]: row["tokens_per_second"] for row in rows} | {"GB": rows[0]["peak_memory_bytes"] / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a packed model")
    parser.add_argument("-p", "--prompt", default="128,512")
    parser.add_argument("-n", "--generate", default="32")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    exported = args.model.with_name(args.model.name + "-onnx")
    if not is_onnx(exported):
        with open_source(args.model) as source:
            write_onnx(source, exported, "int8")
    rounds = [(measure(args.model, args), measure(exported, args)) for _ in range(args.rounds)]
    print("| test | edge-lfm | onnxruntime | ratio |\n|---|---|---|---|")
    for test in rounds[0][0]:
        ours, theirs = (statistics.median(r[side][test] for r in rounds) for side in (0, 1))
        ratio = statistics.median(r[0][test] / r[1][test] for r in rounds)
        print(f"| {test} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
