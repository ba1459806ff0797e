"""The demo model's abilities through the runtime, with and without hard constraints.

    python benchmarks/abilities.py [--samples 100] [--recipes float32,int8,balanced] [--json]

Held-out samples of the model's own generator. Where a constraint makes sense it is what a user would state: the
tools' schemas, the JSON keys asked for, the labels shown. It makes the form sure; what is right or wrong in it
remains the model's.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from edge_lfm import Completion, Model
from edge_lfm.measure.tasks import Task, judge, read_tasks
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.text.tool_calls import Call, write_calls

JSON_TYPES = {bool: "boolean", int: "integer", str: "string"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--recipes", default="float32,int8,balanced")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = {name: accuracies(name, args.samples) for name in args.recipes.split(",")}
    if args.json:
        print(json.dumps(results, indent=2))
        return
    forms = {"free": "", "constrained": ", bound", "valid": ", valid form"}
    shown = [(name, form) for name in results for form in forms if form == "free" or name != "float32"]
    heads = [f"{name}{forms[form]}" for name, form in shown]
    print(f"| ability | samples | {' | '.join(heads)} |\n|---{'|---' * (1 + len(heads))}|")
    for ability, row in next(iter(results.values())).items():
        cells = [f"{results[name][ability].get(form, '')}" for name, form in shown]
        print(f"| {ability} | {row['samples']:.0f} | {' | '.join(cells)} |")


def accuracies(recipe: str, samples: int, names: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Percent right of abilities (default: all), free and constrained, and of valid form when constrained."""
    demo = Path(str(files("edge_lfm.demo_model")))
    tasks = read_tasks(demo / "tasks.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "m"
        convert(demo, packed, find_recipe(recipe))
        with Model.load(packed, threads=1) as model:
            names = names or list(dict.fromkeys(task.task for task in tasks))
            return {name: measure(model, [t for t in tasks if t.task == name][:samples]) for name in names}


def measure(model: Model, tasks: list[Task]) -> dict[str, float]:
    free = [answer(model, task, {})[0] for task in tasks]
    results: dict[str, float] = {"samples": len(tasks), "free": percent(judge(tasks, free, run_code=True))}
    limits = [constraint(task) for task in tasks]
    if all(limits):
        bound = [answer(model, task, limit) for task, limit in zip(tasks, limits, strict=True)]
        results["constrained"] = percent(judge(tasks, [text for text, _ in bound], run_code=True))
        results["valid"] = percent([done.finish_reason != "length" for _, done in bound])
    return results


def percent(verdicts: Sequence[bool | None]) -> float:
    return round(100 * sum(map(bool, verdicts)) / len(verdicts), 1)


def answer(model: Model, task: Task, options: dict[str, Any]) -> tuple[str, Completion]:
    """A greedy answer as the task's check wants it: with its tool calls spelled out."""
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(task.prompt, special=True)
    request = model.prepare(ids, max_tokens=max(task.max_tokens, 100), temperature=0.0, **options)
    (done,) = (event.completion for events in model.submit(request) for event in events if hasattr(event, "completion"))
    calls = write_calls([Call(c.name, c.arguments) for c in done.tool_calls])
    return (f"<|tool_call_start|>{calls}<|tool_call_end|>" if done.tool_calls else "") + done.text, done


def constraint(task: Task) -> dict[str, Any]:
    """What a user of this prompt would state; nothing for free text."""
    if task.check in ("tool", "notool"):
        listed = re.search(r"<\|tool_list_start\|>(.*)<\|tool_list_end\|>", task.prompt, re.DOTALL)
        assert listed
        return {"tools": json.loads(listed[1]), "tool_choice": "required" if task.check == "tool" else "auto"}
    if task.check == "json":
        kinds = {key: {"type": JSON_TYPES[type(value)]} for key, value in task.expect.items()}
        return {
            "schema": {"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False}
        }
    if task.task.startswith(("pattern", "few-shot")):
        return {"choices": list(labels(task.prompt))}
    return {}


def labels(prompt: str) -> Iterator[str]:
    """The labels that the examples of a prompt show: as earlier turns, or at the ends of its lines."""
    turns = re.findall(r"<\|im_start\|>assistant\n(.+?)<\|im_end\|>", prompt)
    yield from dict.fromkeys(turns or re.findall(r"(?:[:=]|[-=]>) *([^\n:=>]+)$", prompt, re.MULTILINE))


if __name__ == "__main__":
    main()
