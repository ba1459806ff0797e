"""What the demo model itself writes: prompts of the training split and its greedy answers, for its drafter.

    PYTHONPATH=tools python -m demo.drafter_texts CHECKPOINT -o texts.jsonl [--count 16000]

A line for each conversation: {"prompt": token ids, "answer": token ids}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo.render import prompt_of
from demo.sample import Sample
from demo.tasks import MAX_TOKENS, samples
from edge_lfm import Model
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

SEED = "drafter"
_AT_ONCE = 16
MAX_PROMPT_TOKENS = 440


def conversations(checkpoint: Path, count: int) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Prompts and the model's answers to them, ended by a stop token or cut."""
    with tempfile.TemporaryDirectory() as folder:
        convert(checkpoint, Path(folder) / "m", find_recipe("int8"))
        options = {"parallel": _AT_ONCE, "threads": 1, "context": 1024}
        with Model.load(Path(folder) / "m", **options) as model, ThreadPoolExecutor(_AT_ONCE) as pool:
            assert model.tokenizer is not None
            encode = model.tokenizer.encode

            def answered(sample: Sample) -> tuple[list[int], tuple[int, ...]]:
                ids = encode(prompt_of(sample), special=True)
                if len(ids) > MAX_PROMPT_TOKENS:
                    return ids, ()
                done = model.generate(ids, max_tokens=MAX_TOKENS.get(sample.task, 40), temperature=0)
                return ids, done.token_ids

            drawn = list(samples(SEED, "train", count, 0.22))
            yield from pool.map(answered, drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16000)
    args = parser.parse_args()
    with args.output.open("w", encoding="utf-8") as file:
        for prompt, answer in conversations(args.checkpoint, args.count):
            if answer:
                file.write(json.dumps({"prompt": list(prompt), "answer": list(answer)}) + "\n")


if __name__ == "__main__":
    main()
