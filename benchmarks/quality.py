"""The tables of docs/quality.md: recipes beside float32 on texts and tasks, as Markdown.

    python benchmarks/quality.py --texts DIR --work DIR [--calibrate TEXT] [--recipes balanced,small,q4_0]
    python benchmarks/quality.py --texts DIR --work DIR [--calibrate TEXT] --sizes lfm2-24b-a2b     # the README's table

Every *.txt of the folder is read in 32 windows of 512 tokens; tasks are those of the demo model. Models and results
are kept in --work, and results that are there are not measured again. With --calibrate, `balanced`, `quality`,
`compact` and `tiny` are also made with a calibration on that text. Ratios are to the recipe q4_0. --sizes gives each
recipe a line, with its sizes for a shape.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_lfm.architectures import read_shape
from edge_lfm.measure.tasks import compare
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE

RECIPES = "balanced,quality,compact,tiny,small,int4,int8,q4_0"
CALIBRATED = ("balanced-cal", "quality-cal", "compact-cal", "tiny-cal")
Results = dict[str, dict[str, Any]]


def run(*arguments: str | Path) -> str:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def model_of(args: argparse.Namespace, name: str) -> Path:
    folder: Path = args.work / name
    if not folder.exists():
        recipe, _, calibrated = name.partition("-")
        extra = ["--calibration", calibration_of(args)] if calibrated else []
        run("quantize", args.checkpoint, "-o", folder, "--recipe", recipe, *extra)
    return folder


def calibration_of(args: argparse.Namespace) -> Path:
    folder: Path = args.work / "calibration"
    if not folder.exists():
        run("calibrate", args.checkpoint, "--text", args.calibrate, "--keep-inputs", "-o", folder)
    return folder


def evaluated(args: argparse.Namespace, name: str, on: str, *arguments: str | Path) -> dict[str, Any]:
    """What `edge-lfm eval` says of a model, now or at an earlier time."""
    kept: Path = args.work / f"{name}.{on}.json"
    if not kept.exists():
        print(f"{name} on {on} ...", file=sys.stderr, flush=True)
        kept.write_text(run("eval", model_of(args, name), *arguments, "--json"), encoding="utf-8")
    result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """A recipe beside float32, whose answers to the tasks are made once for all recipes."""
    texts = [part for text in sorted(args.texts.glob("*.txt")) for part in ("--text", text)]
    result = evaluated(args, name, "texts", "--against", model_of(args, "float32"), *texts, "--windows", "32")
    result["tasks"] = evaluated(args, name, "tasks", "--tasks", "--run-code")["tasks"]
    before = evaluated(args, "float32", "tasks", "--tasks", "--run-code")["tasks"]["right"]
    return result | {"paired": asdict(compare(before, result["tasks"]["right"]))}


def summary(results: Results) -> list[list[str]]:
    rows = [["recipe", "KL mean of the texts", "of Q4_0", "same top", "same experts", "tasks", "lost / won", "p"]]
    means = {name: _mean(result, "kl_mean") for name, result in results.items()}
    for name, result in results.items():
        routing = statistics.mean(
            v for text in result["texts"].values() for v in (text["routing_same"] or {"": float("nan")}).values()
        )
        tasks, ratio = result["tasks"], means[name] / means.get("q4_0", float("nan"))
        paired = result["paired"]
        rows.append([
            f"`{name}`", f"{means[name]:.5f}", f"{ratio:.2f}", f"{_mean(result, 'same_top'):.1%}", f"{routing:.1%}",
            f"{tasks['mean_of_tasks']:.2%}", f"{paired['lost']} / {paired['won']}", f"{paired['p']:.2f}",
        ])  # fmt: skip
    return rows


def sizes(results: Results, shape: str) -> list[list[str]]:
    """What a recipe costs and loses, with a calibration where the recipe uses one."""
    rows = [["recipe", f"{shape}: file", "read per token", "KL divergence", "what it is"]]
    for name in results:
        recipe, _, calibrated = name.partition("-")
        if calibrated or name == "float32":
            continue
        described = read_shape(family_config(shape))
        lost = _mean(results.get(f"{name}-cal", results[name]), "kl_mean") / _mean(results["q4_0"], "kl_mean")
        measured = measure_sizes(described, plan_tensors(described, find_recipe(recipe).schemes))
        rows.append([
            f"`{name}`" + " (default)" * (name == DEFAULT_RECIPE), f"{measured.file_bytes / 1e9:.2f} GB",
            f"{measured.bytes_per_token / 1e9:.3f} GB", f"{lost:.2f}", find_recipe(recipe).summary,
        ])  # fmt: skip
    return rows


def divergence(results: Results) -> list[list[str]]:
    names = _texts(results)
    rows = [["KL divergence, mean", *names]]
    return rows + [[k, *(f"{result['texts'][t]['kl_mean']:.5f}" for t in names)] for k, result in results.items()]


def perplexity(results: Results) -> list[list[str]]:
    names = _texts(results)
    first = next(iter(results.values()))["texts"]
    rows = [["perplexity", *names], ["float32", *(f"{first[t]['reference_perplexity']:.2f}" for t in names)]]
    for k, result in results.items():
        texts = [result["texts"][t] for t in names]
        rows.append(
            [k, *(f"{t['perplexity']:.2f} ({t['perplexity'] / t['reference_perplexity'] - 1:+.2%})" for t in texts)]
        )
    return rows


def _mean(result: dict[str, Any], key: str) -> float:
    return statistics.mean(text[key] for text in result["texts"].values())


def _texts(results: Results) -> list[str]:
    return list(next(iter(results.values()))["texts"])


def show(rows: list[list[str]]) -> None:
    header, *body = [[cell.removesuffix(".txt") for cell in row] for row in rows]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    print("\n".join(f"| {' | '.join(row)} |" for row in body) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=Path("edge_lfm/demo_model"))
    parser.add_argument("--calibrate", type=Path, metavar="TEXT")
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--sizes", metavar="SHAPE")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    names = args.recipes.split(",") + (list(CALIBRATED) if args.calibrate else [])
    results = {name: measure(args, name) for name in names}
    shown = [sizes(results, args.sizes)] if args.sizes else [summary(results), divergence(results), perplexity(results)]
    for rows in shown:
        show(rows)


if __name__ == "__main__":
    main()
