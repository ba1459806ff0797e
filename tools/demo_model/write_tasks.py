"""Write the held-out task samples of `tasks.py` as JSON lines, for `edge-lfm eval --tasks`.

    python tools/demo_model/write_tasks.py -o edge_lfm/demo_model/tasks.jsonl

The samples, in kind, number and seed, are those of the card's table (`evaluate.py`): 100 of each task, and 100
conversations of two or three tasks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tasks
from data import prompt_text

SAMPLES, SEED = 100, 2024
MAX_NEW = {"story": 150, "tool": 60, "tool_reply": 40, "json": 70, "code": 110, "fim": 60, "ground": 40, "recall": 30}


def samples() -> Iterator[tuple[str, int, Any]]:
    """(task, most tokens, sample)."""
    for name in tasks.TASKS:
        count = int(SAMPLES * 1.5) if name == "tool" else SAMPLES
        for sample in tasks.generate(SEED, "test", count, 0.0, [name]):
            kind = name if name in ("count", "sequence") else sample.task
            yield kind, MAX_NEW.get(kind, 40), sample
    several = (
        s
        for s in tasks.generate(SEED + 1, "test", 3 * SAMPLES, 1.0)
        if len(s.messages) > 3 and s.tools is None and s.task != "recall"
    )
    for _, sample in zip(range(SAMPLES), several, strict=False):
        yield "mixed_chat", 110, sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    with args.output.open("w", encoding="utf-8") as file:
        for task, most, sample in samples():
            line = {
                "task": task,
                "prompt": prompt_text(sample),
                "max_tokens": most,
                "check": sample.check,
                "expect": sample.expect,
                "answer": sample.answer,
                "raw": sample.raw_prompt is not None,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
