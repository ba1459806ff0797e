"""How many tokens a round of drafts gives, on the demo model's held-out samples.

    PYTHONPATH=tools python -m demo.drafter_rounds [--drafter CHECKPOINT] [--samples 400]

Greedy answers of the embedded demo model, each as long as that model makes it. A round is a step of the model after
the prompt's; answers are checked to be those without drafts. Nothing is kept of earlier prompts: of what was read
without drafts the drafter would have seen nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_lfm import Model
from edge_lfm.demo import demo_checkpoint, demo_drafter, packed_demo
from edge_lfm.measure.tasks import Task, read_tasks
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

COUNTS = (1, 2, 3, 4, 8)


def tokens_a_round(model: Model, tasks: Sequence[Task], counts: Sequence[int]) -> list[float]:
    """Of each number of drafts: tokens after the answers' first, by the steps that they took."""
    assert model.tokenizer is not None
    steps, tokens = [0] * len(counts), 0
    for task in tasks:
        ids, most = model.tokenizer.encode(task.prompt, special=True), task.max_tokens
        plain = model.generate(ids, temperature=0, max_drafts=0, max_tokens=most)
        tokens += len(plain.token_ids) - 1
        for n, count in enumerate(counts):
            found = model.generate(ids, temperature=0, max_drafts=count, max_tokens=most)
            assert found.token_ids == plain.token_ids, task
            steps[n] += found.timings.steps
    return [tokens / taken for taken in steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafter", type=Path, default=demo_drafter())
    parser.add_argument("--samples", type=int, default=160)
    args = parser.parse_args()
    tasks = read_tasks(demo_checkpoint() / "tasks.jsonl")
    tasks = tasks[:: max(1, len(tasks) // args.samples)]
    print(f"{len(tasks)} answers\n\n| drafts | tokens a round |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        convert(args.drafter, Path(folder) / "d", find_recipe("int8"), target=packed_demo())
        with Model.load(draft=Path(folder) / "d", context=1024, cache=1) as model:
            for count, tokens in zip(COUNTS, tokens_a_round(model, tasks, COUNTS), strict=True):
                print(f"| {count} | {tokens:.2f} |")


if __name__ == "__main__":
    main()
