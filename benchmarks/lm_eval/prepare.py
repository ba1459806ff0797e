"""Samples for lm-evaluation-harness from the demo model's held-out tasks: one file to generate on, one to choose from.

    python benchmarks/lm_eval/prepare.py build/lm_eval

Writes translate.jsonl ({"prompt", "answer"}) and pattern.jsonl ({"prompt", "choices", "label"}), and the tasks.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import edge_lfm

sys.path.append(str(Path(__file__).parent.parent))
from abilities import labels


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    tasks = Path(edge_lfm.__file__).parent / "demo_model/tasks.jsonl"
    samples = [json.loads(line) for line in tasks.read_text(encoding="utf-8").splitlines()]
    generated = [{"prompt": s["prompt"], "answer": s["answer"]} for s in samples if s["task"] == "translate"]
    chosen = [choice for s in samples if s["task"] == "few-shot" if (choice := as_choice(s))]
    for name, lines in (("translate", generated), ("pattern", chosen)):
        (output / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for config in Path(__file__).parent.glob("*.yaml"):
        text = config.read_text(encoding="utf-8").replace("FOLDER", str(output.resolve()))
        (output / config.name).write_text(text, encoding="utf-8")
    print(f"{len(generated)} samples to generate on, {len(chosen)} to choose from in {output}")


def as_choice(sample: dict) -> dict | None:
    """Labelled examples as a multiple choice between the labels that they show; None where there is only one."""
    shown = sorted(labels(sample["prompt"]))
    if sample["answer"] not in shown or len(shown) < 2:
        return None
    return {"prompt": sample["prompt"], "choices": shown, "label": shown.index(sample["answer"])}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    main(Path(sys.argv[1]))
