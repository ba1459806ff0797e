"""Record which experts a model chooses on text, for `replay.py`.

    python benchmarks/record_routing.py MODEL wiki.test.raw kernels/ops/matmul.py -o trace.npz
    edge-lfm calibrate CHECKPOINT --text OTHER.txt -o calibration
    python benchmarks/replay.py trace.npz --sequences 22 --forecast calibration/forecast.safetensors

The trace: `experts` uint8 [tokens, layers that have experts, k], and `offsets` of its sequences, evenly taken from each
text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm import Model
from edge_lfm.engine.feeds import Feed

TOKENS = 400


def record(model: Model, ids: list[int]) -> NDArray[np.uint8]:
    """The choices of one sequence."""
    chosen_of: dict[int, NDArray[np.int64]] = {}

    def watch(layer: int, chosen: NDArray[np.int64]) -> None:
        chosen_of[layer] = chosen

    model.backend.run([Feed(model.backend.new_state(TOKENS), ids)], routing=watch)
    return np.stack([chosen_of[n] for n in sorted(chosen_of)], axis=1).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--each", type=int, default=11, help="sequences of a text")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    with Model.load(args.model) as model:
        assert model.tokenizer is not None
        parts = []
        for path in args.texts:
            ids = model.tokenizer.encode(path.read_text(encoding="utf-8")[:2_000_000])
            starts = np.linspace(0, max(0, len(ids) - TOKENS), args.each).astype(int)
            parts += [record(model, ids[first : first + TOKENS]) for first in starts]
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    np.savez_compressed(args.output, experts=np.concatenate(parts), offsets=offsets)
    print(f"{args.output}: {offsets[-1]} tokens in {len(parts)} sequences", file=sys.stderr)


if __name__ == "__main__":
    main()
