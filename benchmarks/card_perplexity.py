"""Perplexity of packed demo models by the model card's conventions: weights only, float activations, whole windows.

    python benchmarks/card_perplexity.py TEXT... --models float32 balanced

Windows are a start token and 511 tokens of the text, 32 at most; every token but the first is scored. Compare with the
table "Perplexity" of the demo model's card, which transformers made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edge_lfm.kernels.ref import I64
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.streamed import StreamedModel
from edge_lfm.text.tokenizer import Tokenizer

LENGTH, MOST = 512, 32


def perplexity(model: PackedModel, windows: list[I64]) -> float:
    streamed = StreamedModel(model.config, UnpackedWeights(model, integers=False))
    hidden, loss = streamed.hidden(windows), 0.0
    for n, window in enumerate(windows):
        logits = streamed.head(hidden[n * LENGTH : (n + 1) * LENGTH])[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        loss -= (logits[np.arange(LENGTH - 1), window[1:]] - np.log(np.exp(logits).sum(axis=1))).sum()
    return float(np.exp(loss / (len(windows) * (LENGTH - 1))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument(
        "--models", nargs="+", type=Path, required=True, help="packed models; the first is the reference"
    )
    args = parser.parse_args()
    tokenizer, step = Tokenizer(args.models[0]), LENGTH - 1
    start = tokenizer.special_id(tokenizer.bos)
    for text in args.texts:
        ids = tokenizer.encode(text.read_text(encoding="utf-8"))
        count = min(MOST, len(ids) // step)
        windows = [np.array([start, *ids[n * step : (n + 1) * step]], np.int64) for n in range(count)]
        found = []
        for folder in args.models:
            with PackedModel(folder) as model:
                found.append(perplexity(model, windows))
        shown = (f"{m.name} {p:.3f} ({p / found[0] - 1:+.2%})" for m, p in zip(args.models, found, strict=True))
        print(f"{text.stem}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
