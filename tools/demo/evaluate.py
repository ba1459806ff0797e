"""How well a checkpoint of the demo model does on held-out samples, trained and unseen kinds apart.

    PYTHONPATH=tools python -m demo.evaluate CHECKPOINT [--samples 200] [--tasks tasks.jsonl]

Greedy answers by this project's engine on float32 weights, which equals transformers within 1e-4, as a table. `--tasks`
writes the samples for `edge-lfm eval --tasks`, and answers nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from demo.render import prompt_of
from demo.sample import Sample
from demo.tasks import MAKERS, MAX_TOKENS, samples
from edge_lfm import Model
from edge_lfm.measure.tasks import Task, judge
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

SEED = "2024"
_ROOM = {"tool": 1.5, "client tool": 1.5, "grounded": 2.0, "json": 2.0, "sums": 2.0}
"""How many more samples of tasks that come in several kinds."""
AIMS = {
    "recall": 0.95, "grounded": 0.8, "grounded, unseen": 0.6, "tool": 0.9, "tool, unseen": 0.75, "json": 0.85,
    "json, unseen": 0.7, "few-shot": 0.85, "translate": 0.85, "sums": 0.9, "code": 0.9, "fill-in-the-middle": 0.9,
}  # fmt: skip


def held_out(count: int) -> list[Task]:
    """So many samples of each task, and conversations of several."""
    tasks = []
    for name in MAKERS:
        drawn = samples(SEED, "test", int(count * _ROOM.get(name, 1.0)), only=[name])
        tasks += [_task(sample, sample.name, MAX_TOKENS.get(name, 40)) for sample in drawn]
    kinds = [name for name in MAKERS if name != "client tool"]  # conversations that list tools are not joined
    drawn = samples(f"{SEED}.several", "test", count, joined=1.0, only=kinds)
    several = [sample for sample in drawn if len(sample.messages) > 3 and sample.tools is None]
    return tasks + [_task(sample, "several tasks", 110) for sample in several]


def _task(sample: Sample, name: str, most: int) -> Task:
    raw = sample.raw_prompt is not None
    return Task(name, prompt_of(sample), most, sample.check, sample.expect, sample.answer, raw)


def answers(model: Model, tasks: Sequence[Task]) -> list[str]:
    """Greedy answers, special tokens kept, the end of turn removed."""
    assert model.tokenizer is not None
    texts = []
    for task in tasks:
        ids = model.tokenizer.encode(task.prompt, special=True)
        done = model.generate(ids, max_tokens=task.max_tokens, temperature=0)
        text = model.tokenizer.decode([i for i in done.token_ids if i not in model.stop_ids], special=True)
        texts.append(text)
    return texts


def accuracy(checkpoint: Path, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """By task: how many samples, and the share that is right."""
    with tempfile.TemporaryDirectory() as folder:
        convert(checkpoint, Path(folder) / "m", find_recipe("float32"))
        with Model.load(Path(folder) / "m", threads=1) as model:
            verdicts = judge(tasks, answers(model, tasks), run_code=True)
    right: dict[str, list[bool]] = defaultdict(list)
    for task, verdict in zip(tasks, verdicts, strict=True):
        right[task.task].append(bool(verdict))
    return {name: {"samples": len(v), "right": round(sum(v) / len(v), 4)} for name, v in sorted(right.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--tasks", type=Path, help="only write the samples here")
    args = parser.parse_args()
    tasks = held_out(args.samples)
    if args.tasks:
        lines = (json.dumps(asdict(task), ensure_ascii=False) + "\n" for task in tasks)
        args.tasks.write_text("".join(lines), encoding="utf-8")
        return
    print("| task | samples | right | aim |\n|---|---|---|---|")
    for name, row in accuracy(args.checkpoint, tasks).items():
        aim = f"{AIMS[name]:.0%}" if name in AIMS else ""
        print(f"| {name} | {row['samples']} | {row['right']:.1%} | {aim} |")


if __name__ == "__main__":
    main()
