"""Decoding with a drafter of the published shape beside plain decoding, on random weights in true shapes.

    edge-lfm synth lfm2-8b-a1b -o MODEL
    python benchmarks/drafting.py MODEL [--right 0.7] [--drafts 1,2,3,4,7] [--tokens 64] [--repeat 3]

A random drafter is nearly never right. So its passes are really run, and their outcome is replaced: each draft is the
token that plain decoding gave, with the chance `--right`, and another one otherwise. Runs are interleaved. Random
routers spread the rows of a step over more experts than trained ones do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_lfm import Completion, Model
from edge_lfm.engine import answering
from edge_lfm.engine.backend import Backend
from edge_lfm.engine.model_drafter import ModelDrafter
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.synth import synthesize

PROMPT_TOKENS = 64
SHAPE: dict[str, Any] = {
    "architectures": ["Lfm2DSparkDraftModel"], "model_type": "qwen3", "num_hidden_layers": 5,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 6144,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 1e6, "rope_is_neox_style": False, "block_size": 9,
    "max_position_embeddings": 128000, "markov_rank": 256, "markov_head_type": "vanilla",
    "enable_confidence_head": True,
}  # fmt: skip


class Forced:
    """The drafter's own passes, and drafts that are right with a chance."""

    def __init__(self, drafter: ModelDrafter, answer: Sequence[int], right: float, vocab: int) -> None:
        self._drafter, self._answer, self._right, self._vocab, self._done = drafter, answer, right, vocab, 0
        self._draws = np.random.default_rng(1)

    def extend(self, token: int) -> None:
        self._done += 1
        self._drafter.extend(token)

    def propose(self, count: int) -> list[int]:
        made = self._drafter.propose(count)
        known = self._answer[self._done : self._done + len(made)]
        return [token if self._draws.random() < self._right else (token + 1) % self._vocab for token in known]


def synthetic_drafter(folder: Path, target: Path) -> Path:
    """A random drafter of the published shape for a packed model."""
    with PackedModel(target) as model:
        shape = model.shape
    layers = len(shape.layers)
    taps = [round(2 + n * (layers - 5) / 4) for n in range(5)]
    section = {"mask_token_id": 3, "target_layer_ids": taps, "num_target_layers": layers}
    config = SHAPE | {"hidden_size": shape.hidden, "vocab_size": shape.vocab, "dflash_config": section}
    synthesize(config, folder / "drafter", find_recipe("balanced"), target=target)
    return folder / "drafter"


def measure(model: Model, counts: Sequence[int], right: float, tokens: int, repeat: int) -> dict[int, list[Completion]]:
    """Answers by the number of drafts; 0: plain."""
    prompt = np.random.default_rng(0).integers(10, model.shape.vocab, PROMPT_TOKENS).tolist()
    options: dict[str, Any] = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    plain = model.generate(prompt, max_drafts=0, **options).token_ids
    make = answering.model_drafter

    def forced(runner: Backend, sequence: TokenSequence, max_drafts: int | None) -> Any:
        made = make(runner, sequence, max_drafts)
        return None if made is None else Forced(made, plain, right, model.shape.vocab)

    answering.model_drafter = forced  # type: ignore[assignment]
    answers: dict[int, list[Completion]] = {count: [] for count in (0, *counts)}
    for n in range(repeat + 1):
        for count, made in answers.items():
            answer = model.generate(prompt, max_drafts=count, **options)
            assert answer.token_ids == plain
            if n:
                made.append(answer)
    answering.model_drafter = make
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--right", type=float, default=0.7)
    parser.add_argument("--drafts", default="1,2,3,4,7")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    counts = [int(count) for count in args.drafts.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        drafter = synthetic_drafter(Path(folder), args.model)
        with Model.load(args.model, draft=drafter, context=1024, parallel=1) as model:
            answers = measure(model, counts, args.right, args.tokens, args.repeat)
            print(f"{model.threads} threads, {args.right:.0%} of drafts right\n")
    print("| drafts | tokens a step | tok/s | ratio to none | ms of drafting a round |\n|---|---|---|---|---|")
    plain = statistics.median(a.timings.decode_tps for a in answers[0])
    for count, made in answers.items():
        t = made[0].timings
        rate = statistics.median(a.timings.decode_tps for a in made)
        drafting = 1e3 * statistics.median(a.timings.drafting_s / a.timings.steps for a in made)
        print(f"| {count} | {(args.tokens - 1) / t.steps:.2f} | {rate:.1f} | {rate / plain:.2f} | {drafting:.1f} |")


if __name__ == "__main__":
    main()
