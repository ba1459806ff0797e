"""Perplexity by a model card's conventions: weights only, float activations, whole windows; a table.

    python benchmarks/card_perplexity.py TEXT... --models float32 balanced [--windows 32]

Windows are a start token and 511 tokens of the text; every token but the first is scored. Bits per byte are the first
model's, of the text that the windows hold. `make goldens` compares the logits with those of transformers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_lfm.kernels.spec.ref import I64
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.streamed import StreamedModel
from edge_lfm.text.tokenizer import Tokenizer

LENGTH, AT_ONCE = 512, 32


def loss(model: PackedModel, windows: Sequence[I64]) -> float:
    """Mean negative log-likelihood of a token, in nats."""
    streamed, total = StreamedModel(model.shape, UnpackedWeights(model, integers=False)), 0.0
    for first in range(0, len(windows), AT_ONCE):
        part = windows[first : first + AT_ONCE]
        hidden = streamed.hidden(part)
        for n, window in enumerate(part):
            logits = streamed.head(hidden[n * LENGTH : (n + 1) * LENGTH])[:-1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            total -= (logits[np.arange(LENGTH - 1), window[1:]] - np.log(np.exp(logits).sum(axis=1))).sum()
    return float(total / (len(windows) * (LENGTH - 1)))


def row(path: Path, models: Sequence[Path], most: int) -> list[str]:
    tokenizer, step = Tokenizer(models[0]), LENGTH - 1
    start = tokenizer.special_id(tokenizer.bos)
    ids = tokenizer.encode(path.read_text(encoding="utf-8"))
    count = min(most, len(ids) // step)
    windows = [np.array([start, *ids[n * step : (n + 1) * step]], np.int64) for n in range(count)]
    losses = []
    for folder in models:
        with PackedModel(folder) as model:
            losses.append(loss(model, windows))
    size = len(tokenizer.decode(ids[: count * step]).encode())
    bits = losses[0] * count * step / math.log(2) / size
    others = (f"{math.exp(f):.3f} ({math.expm1(f - losses[0]):+.2%})" for f in losses[1:])
    return [path.stem, str(count * step), f"{bits:.3f}", f"{math.exp(losses[0]):.3f}", *others]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument(
        "--models", nargs="+", type=Path, required=True, help="packed models; the first is the reference"
    )
    parser.add_argument("--windows", type=int, default=32, help="of a text, at most")
    args = parser.parse_args()
    print(f"| text | tokens | bits per byte | {' | '.join(m.name for m in args.models)} |")
    print("|---" * (3 + len(args.models)) + "|")
    for text in args.texts:
        print(f"| {' | '.join(row(text, args.models, args.windows))} |", flush=True)


if __name__ == "__main__":
    main()
