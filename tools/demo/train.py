"""Train the demo model: one recipe, resumable, with a log.

    PYTHONPATH=tools python -m demo.train --corpora DIR --tokenizer tokenizer.json --out RUN [--tokens 40e6]
    PYTHONPATH=tools python -m demo.train ... --start MODEL --tokens 3e6 --seed 8

From nothing: rows of 512 tokens, and of 2,048 for the last fifth; after the first fifth nouns and verbs may be any
words. The rate rises over 60 steps, is constant for 35 % of the tokens, and falls linearly to 0. From the weights of a
checkpoint in the hub's layout (`--start`): rows of 2,048 and any words from the beginning; the rate rises to a fifth of
that over 20 steps, and falls linearly to 0; the optimizer remembers nothing. Experts are balanced without a loss of
their own: after each step a layer's selection bias moves towards the mean load.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from demo import corpora
from demo.network import CONFIG, Network
from demo.optimizer import Optimizer
from demo.stream import ANSWER, PROMPT, PROSE, Stream

ROWS, LONG_ROWS = (16, 512), (4, 2048)
"""Rows of a step, and their tokens."""
_BIAS_STEP = 0.002
_CHECKPOINT_S = 120
_LOG_STEPS = 20


@dataclass(frozen=True)
class Plan:
    """peak: of the rate; warm_up: steps until it; constant, long_from, any_words_from: shares of all tokens."""

    peak: float
    warm_up: int
    constant: float
    long_from: float
    any_words_from: float

    def rate_at(self, step: int, done: float) -> float:
        """Of the optimizer's rates, after a share of all tokens."""
        return self.peak * min(1.0, (step + 1) / self.warm_up) * min(1.0, (1 - done) / (1 - self.constant))


FROM_NOTHING = Plan(peak=1.0, warm_up=60, constant=0.35, long_from=0.8, any_words_from=0.2)
FURTHER = Plan(peak=0.2, warm_up=20, constant=0.0, long_from=0.0, any_words_from=0.0)


class Run:
    """The state of a training run in its folder. start: a checkpoint whose weights it begins with."""

    def __init__(self, folder: Path, seed: int, start: Path | None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        self.network = Network(seed)
        if start is not None:
            self.network.load_hub(load_file(start / "model.safetensors"))
        self.optimizer = Optimizer(self.network)
        self.step = self.tokens = 0
        self.seconds = 0.0
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
        if (folder / "checkpoint.pt").exists():
            state = torch.load(folder / "checkpoint.pt", weights_only=True)
            self.optimizer.load(state["optimizer"])
            self.network.expert_bias = state["expert_bias"]
            self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
            self.say(f"goes on at step {self.step}")

    def say(self, line: str) -> None:
        print(line, flush=True)
        self._log.write(line + "\n")
        self._log.flush()

    def save(self) -> None:
        state = {"optimizer": self.optimizer.state(), "expert_bias": self.network.expert_bias}
        state |= {"step": self.step, "tokens": self.tokens, "seconds": self.seconds}
        torch.save(state, self.folder / "checkpoint.partial")
        os.replace(self.folder / "checkpoint.partial", self.folder / "checkpoint.pt")

    def learn(self, batch: list[Any], rate: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One step; weights and losses of the positions that were scored, and the experts' loads."""
        ids, weights, documents = (torch.from_numpy(part) for part in batch)
        targets, weight = ids[:, 1:].contiguous(), weights[:, 1:].contiguous()
        loss, scored, losses, loads = self.network(ids[:, :-1], documents[:, :-1], targets, weight)
        loss.backward()
        self.optimizer.step(rate, 1.0 / float(weight.sum()))
        self._balance(loads.float(), rate)
        self.step, self.tokens = self.step + 1, self.tokens + targets.numel()
        return weight.reshape(-1)[scored], losses.detach(), loads

    def _balance(self, loads: torch.Tensor, rate: float) -> None:
        first = CONFIG["num_dense_layers"]
        bias = self.network.expert_bias[first:]
        bias += _BIAS_STEP * max(rate, 0.02) * torch.sign(loads.mean(1, keepdim=True) - loads)
        bias -= bias.mean(1, keepdim=True)


class _Ahead:
    """Makes the next batch while a step runs; a sample that cannot be made ends the run."""

    def __init__(self, stream: Stream, rows: int) -> None:
        self._stream, self._rows = stream, rows
        self._pool = ThreadPoolExecutor(1)
        self._next = self._pool.submit(stream.batch, rows)

    def next(self) -> list[Any]:
        batch = self._next.result()
        self._next = self._pool.submit(self._stream.batch, self._rows)
        return batch


def train(run: Run, plan: Plan, tokenizer: Tokenizer, texts: corpora.Texts, total: int, seed: int) -> bool:
    """Train until `total` tokens, or until asked to stop; whether it is done."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    started = saved = time.monotonic()
    before, ahead, now_drawn, means = run.seconds, None, (), _Means()
    while run.tokens < total and not stop:
        done = run.tokens / total
        rows, length = LONG_ROWS if done >= plan.long_from else ROWS
        if ahead is None or now_drawn != (length, done >= plan.any_words_from):
            now_drawn = length, done >= plan.any_words_from
            ahead = _Ahead(Stream(tokenizer, texts, seed + run.step, *now_drawn), rows)
        rate = plan.rate_at(run.step, done)
        means.add(*run.learn(ahead.next(), rate))
        now = time.monotonic()
        run.seconds = before + now - started
        if run.step % _LOG_STEPS == 0:
            run.say(
                f"step {run.step}, {run.tokens / 1e6:.2f}M tokens, {run.seconds:.0f} s, rate {rate:.3f}, {means.line()}"
            )
            means = _Means()
        if now - saved > _CHECKPOINT_S:
            run.save()
            saved = now
    run.save()
    return run.tokens >= total


class _Means:
    """Mean losses of some steps, by what was learnt from."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys((ANSWER, PROSE, PROMPT), (0.0, 0))
        self._load = 0.0

    def add(self, weights: torch.Tensor, losses: torch.Tensor, loads: torch.Tensor) -> None:
        for kind, (total, count) in self._sums.items():
            mine = losses[(weights - kind).abs() < 1e-3]
            self._sums[kind] = total + float(mine.sum()), count + len(mine)
        self._load = float((loads.amax(1) / loads.float().mean(1)).mean())

    def line(self) -> str:
        names = {ANSWER: "answers", PROSE: "prose", PROMPT: "prompts"}
        parts = [f"{names[kind]} {total / max(1, count):.3f}" for kind, (total, count) in self._sums.items()]
        return ", ".join(parts) + f", largest load {self._load:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="folder of a checkpoint whose weights to train further")
    parser.add_argument("--tokens", type=float, default=40e6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run, plan = Run(args.out, args.seed, args.start), FURTHER if args.start else FROM_NOTHING
    tokenizer, texts = Tokenizer.from_file(str(args.tokenizer)), corpora.load(args.corpora)
    done = train(run, plan, tokenizer, texts, int(args.tokens), args.seed)
    facts = {"steps": run.step, "tokens": run.tokens, "seconds": run.seconds, "seed": args.seed, "done": done}
    (args.out / "train.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
