"""Compare two checkouts bit by bit: do they pack the same bytes, and compute the same logits?

    python tools/compare_checkouts.py ../before/.venv/bin/python .venv/bin/python [--tiers all] [--cases demo,moe]

Each checkout is named by the Python it is installed in. Both read the same checkpoints: the bundled demo model, and a
tiny one of every golden case. Each packs them with each recipe, loads what it packed, and computes the logits of a
prompt and the log probabilities of an answer, token by token, with both kinds of KV cache, on one tier or on all that
run here. Prints a row for each comparison; exits with 1 if one differs. Uses the command line and the public API only,
so that any two versions can be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RECIPES = ("float32", "int8", "int4", "q4_0", "balanced", "quality")
KV_DTYPES = ("float16", "int8")
PROMPT_TOKENS, ANSWER_TOKENS = 90, 12
PACKED = "packed file"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="Python of the first checkout")
    parser.add_argument("after", type=Path, help="Python of the second")
    parser.add_argument("--tiers", default="best", help="best (default), all, or names with commas")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names with commas")
    parser.add_argument("--cases", default="", help="demo, or golden cases, with commas; default: all")
    args = parser.parse_args()
    differ, compared = 0, 0
    with tempfile.TemporaryDirectory(prefix="compare-") as work:
        sources = write_sources(Path(work) / "sources", set(args.cases.split(",")) - {""})
        sides = {name: Path(work) / name for name in ("before", "after")}
        for tier in tiers_of(args.after, args.tiers):
            for name, folder in sides.items():
                job = {"sources": sources, "recipes": args.recipes.split(","), "work": str(folder), "tier": tier}
                run(getattr(args, name), [__file__, "--job", json.dumps(job)], EDGE_LFM_ISA=tier)
            for row, equal in compare(sides["before"] / tier, sides["after"] / tier):
                print(f"{'equal  ' if equal else 'DIFFERS'}  {tier}, {row}", flush=True)
                differ, compared = differ + (not equal), compared + 1
    print(f"{differ} of {compared} differ" if differ else f"all {compared} are equal")
    sys.exit(bool(differ))


def compare(before: Path, after: Path) -> Iterator[tuple[str, bool]]:
    """A description of each result that two folders hold, and whether it is the same."""
    for path in sorted(before.glob("*.npz")):
        with np.load(path) as ours, np.load(after / path.name) as theirs:
            for what in sorted(ours.files):
                same = ours[what].shape == theirs[what].shape and ours[what].tobytes() == theirs[what].tobytes()
                yield f"{path.stem}: {what}", same


def do_job(sources: dict[str, str], recipes: list[str], work: str, tier: str) -> None:
    """Runs in a checkout's own Python: pack every source with every recipe, once; compute with each on this tier."""
    from edge_lfm.cli.main import main as edge_lfm

    results = Path(work) / tier
    results.mkdir(parents=True)
    for name, source in sources.items():
        for recipe in recipes:
            model = Path(work) / f"{name}, {recipe}"
            if not model.exists() and edge_lfm(["quantize", source, "-o", str(model), "--recipe", recipe]):
                sys.exit(f"{model} could not be made")
            digest = hashlib.sha256((model / "model.safetensors").read_bytes()).digest()
            arrays = {PACKED: np.frombuffer(digest, np.uint8)} | computed(model)
            np.savez(results / f"{model.name}.npz", **arrays)


def computed(model: Path) -> dict[str, np.ndarray]:
    """Logits of a prompt, an answer, and its log probabilities."""
    from edge_lfm import Model

    arrays: dict[str, np.ndarray] = {}
    for kv_dtype in KV_DTYPES:
        with Model.load(model, threads=2, kv_dtype=kv_dtype, context=200) as loaded:
            ids = np.random.default_rng(7).integers(0, loaded.vocab, PROMPT_TOKENS).tolist()
            answer = loaded.generate(ids, max_tokens=ANSWER_TOKENS, temperature=0.0, logprobs=1)
            arrays[f"logits, {kv_dtype} cache"] = loaded.logits(ids)
            arrays[f"answer, {kv_dtype} cache"] = np.array(answer.token_ids)
            arrays[f"log probabilities, {kv_dtype} cache"] = np.array([token.logprob for token in answer.logprobs])
    return arrays


def write_sources(folder: Path, names: set[str]) -> dict[str, str]:
    """The checkpoints that both checkouts read, by name; written by this checkout."""
    from safetensors.numpy import save_file

    from edge_lfm.architectures import family_of, read_shape
    from edge_lfm.demo import demo_checkpoint
    from edge_lfm.model.plan import plan_tensors
    from edge_lfm.quantize.recipe import find_recipe

    cases = json.loads((ROOT / "tests" / "data" / "goldens.json").read_text(encoding="utf-8"))
    unknown = names - cases.keys() - {"demo"}
    if unknown:
        sys.exit(f"unknown cases {', '.join(sorted(unknown))}; there are demo, {', '.join(cases)}")
    paths = {"demo": str(demo_checkpoint())} if not names or "demo" in names else {}
    goldens = _goldens_tool()
    for case, raw in cases.items():
        if names and case not in names:
            continue
        family, tensors = family_of(raw), plan_tensors(read_shape(raw), find_recipe("float32").schemes)
        shapes = {family.hub_name(source.name): source.shape for tensor in tensors for source in tensor.sources}
        paths[case] = str(folder / case)
        (folder / case).mkdir(parents=True)
        stored = goldens.stored_shapes(raw, shapes)
        weights = {name: goldens.random_weights(name, shape) for name, shape in stored.items()}
        save_file(weights, folder / case / "model.safetensors")
        (folder / case / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return paths


def _goldens_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_goldens", ROOT / "tools" / "make_goldens.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiers_of(python: Path, asked: str) -> list[str]:
    """Names of tiers: of all that this processor runs, of the best, or those that were asked for."""
    if asked not in ("all", "best"):
        return asked.split(",")
    command = "from edge_lfm.kernels.spec.isa import runnable_tiers as r; print(*(t.name for t in r()))"
    tiers = run(python, ["-c", command]).split()
    return tiers if asked == "all" else tiers[:1]


def run(python: Path, arguments: list[Any], **settings: str) -> str:
    """What a command of a checkout prints; run from the root of the checkout.

    Raises:
        SystemExit: it failed.
    """
    python = python.absolute()  # not resolved: a virtual environment's Python is a link
    done = subprocess.run(
        [python, *arguments],
        cwd=python.parents[2],
        env=os.environ | settings,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, [python, *arguments]))} failed:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        do_job(**json.loads(sys.argv[2]))
    else:
        main()
