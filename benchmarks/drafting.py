"""Decoding with a drafter of the published shape beside plain decoding, on random weights in true shapes.

    edge-lfm synth lfm2.5-2.6b -o MODEL
    python benchmarks/drafting.py MODEL [--right 0.7] [--drafts 1,2,3,4,7] [--tokens 64] [--repeat 3]

A random drafter is nearly never right. So its passes are really run, and their outcome is replaced: each draft is the
token that plain decoding gave, with the chance `--right`, and another one otherwise. Runs are interleaved, medians are
told. "-" is the model without a drafter, 0 with one that looks on and drafts nothing. "wrong": as many drafts as pay,
of a drafter that is never right and is new in each answer, so that each has the loss until it switches itself off.
Random routers spread the rows of a step over more experts than trained ones do.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm import Completion, Model
from edge_lfm.engine.draft_costs import Switch
from edge_lfm.engine.feeds import DraftAsk, Drafts, Feed
from edge_lfm.engine.runner import Runner
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
    """Takes the place of `Runner.draft`: the drafter's own passes, and drafts that are right with a chance."""

    def __init__(self, right: float) -> None:
        self._draft, self._right = Runner.draft, right
        self._answer: list[int] = []
        self._is_right: NDArray[np.bool_] = np.zeros(0, bool)

    never: bool
    """Whether all drafts are wrong for now."""

    def know(self, answer: Sequence[int]) -> None:
        """What plain decoding says; which of its tokens are drafted rightly is drawn once for all runs."""
        self._answer = list(answer)
        self._is_right = np.random.default_rng(1).random(len(answer)) < self._right
        self.never = False

    def __call__(self, runner: Runner, asks: Sequence[DraftAsk], beside: Sequence[Feed]) -> list[Drafts]:
        made = self._draft(runner, asks, beside)
        return [self._forced(ask, drafts, runner.shape.vocab) for ask, drafts in zip(asks, made, strict=True)]

    def _forced(self, ask: DraftAsk, made: Drafts, vocab: int) -> Drafts:
        first = ask.state.position - PROMPT_TOKENS + 1
        known = list(zip(self._answer, self._is_right, strict=True))[first : first + len(made.token_ids)]
        told = [token if right and not self.never else (token + 1) % vocab for token, right in known]
        return replace(made, token_ids=told)


def synthetic_drafter(folder: Path, target: Path) -> Path:
    """A random drafter of the published shape for a packed model."""
    with PackedModel(target) as model:
        shape = model.shape
    layers = len(shape.layers)
    taps = np.linspace(layers // 10, layers - 1 - layers // 10, 5).round().astype(int).tolist()
    section = {"mask_token_id": 3, "target_layer_ids": taps, "num_target_layers": layers}
    config = SHAPE | {"hidden_size": shape.hidden, "vocab_size": shape.vocab, "dflash_config": section}
    synthesize(config, folder / "drafter", find_recipe("balanced"), target=target)
    return folder / "drafter"


def measure(
    bare: Model, model: Model, forced: Forced, counts: Sequence[int], tokens: int, repeat: int
) -> dict[str, list[Completion]]:
    """Answers by the number of drafts; "-": of the model without a drafter; "wrong": of one that is never right."""
    prompt = np.random.default_rng(0).integers(10, model.shape.vocab, PROMPT_TOKENS).tolist()
    options: dict[str, Any] = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    plain = bare.generate(prompt, **options).token_ids
    forced.know(plain)
    answers: dict[str, list[Completion]] = {"-": [], **{str(count): [] for count in (0, *counts)}, "wrong": []}
    for n in range(repeat + 1):
        for count, made in answers.items():
            forced.never = count == "wrong"
            if count == "-":
                answer = bare.generate(prompt, **options)
            elif forced.never:
                assert model.backend.drafting is not None
                model.backend.drafting.switch = Switch()
                answer = model.generate(prompt, **options)
            else:
                answer = model.generate(prompt, max_drafts=int(count), **options)
            assert answer.token_ids == plain
            if n:
                made.append(answer)
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
    forced = Forced(args.right)
    Runner.draft = lambda *asked: forced(*asked)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        drafter = synthetic_drafter(Path(folder), args.model)
        load: dict[str, Any] = {"context": 1024, "parallel": 1}
        with Model.load(args.model, **load) as bare, Model.load(args.model, draft=drafter, **load) as model:
            answers = measure(bare, model, forced, counts, args.tokens, args.repeat)
            print(f"{model.threads} threads, {args.right:.0%} of drafts right\n")
    print("| drafts | tokens a step | accepted | tok/s | ratio to none | ms of drafting a round |")
    print("|---|---|---|---|---|---|")
    plain = statistics.median(a.timings.decode_tps for a in answers["-"])
    for count, made in answers.items():
        t = made[0].timings
        rate = statistics.median(a.timings.decode_tps for a in made)
        drafting = 1e3 * statistics.median(a.timings.drafting_s / a.timings.steps for a in made)
        share = f"{t.accepted / t.drafted:.0%}" if t.drafted else "-"
        gained = (args.tokens - 1) / t.steps
        print(f"| {count} | {gained:.2f} | {share} | {rate:.1f} | {rate / plain:.2f} | {drafting:.1f} |")


if __name__ == "__main__":
    main()
