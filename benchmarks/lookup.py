"""Prompt lookup on copy-heavy work with the demo model: steps saved, tokens per second, and what it costs.

    python benchmarks/lookup.py

Each task asks for text that stands in the prompt, raw, so that the model may copy; `story` is the control.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from edge_lfm import Model

CODE = "def add(x, y):\n    return x + y\n\n\ndef largest(values):\n    return max(values)\n\n\n"
PASSAGE = "The Morvek lighthouse was built in 1843. It is 35 meters tall. It stands near Karsi.\n"
TASKS = {
    "code edit": CODE * 2 + "def add(x, y):\n",
    "quoting": PASSAGE * 3 + "The Morvek lighthouse was",
    "story": "Once upon a time, there was a lazy fox",
}
ROUNDS, TOKENS = 5, 96


def main() -> None:
    with Model.load() as model:
        print("| task | drafts | tok/s | ratio to none |\n|---|---|---|---|")
        for name, prompt in TASKS.items():
            rates: dict[int, list[float]] = {0: [], 4: [], 8: [], 16: []}
            for _ in range(ROUNDS):
                for drafts, speeds in rates.items():
                    answer = model.generate(prompt, raw=True, max_tokens=TOKENS, lookup=drafts)
                    speeds.append(answer.timings.decode_tps)
            plain = statistics.median(rates[0])
            medians = [statistics.median(speeds) for speeds in rates.values()]
            ratios = [f"{rate / plain:.2f}" for rate in medians]
            print(f"| {name} | {_row(rates)} | {_row(map(round, medians))} | {_row(ratios)} |")


def _row(values: Iterable[object]) -> str:
    return " / ".join(str(value) for value in values)


if __name__ == "__main__":
    main()
