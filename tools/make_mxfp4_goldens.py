"""Remake tests/data/mxfp4_goldens.npz: transformers' logits of tiny gpt-oss models whose experts are MXFP4.

    python -m venv .golden && .golden/bin/pip install "torch>=2.6" "transformers>=5.0" numpy
    .golden/bin/python tools/make_mxfp4_goldens.py

As make_goldens.py, but for the experts: their blocks and scales are drawn here, and what they mean is transformers' own
`convert_moe_packed_tensors`. Imports nothing of edge-lfm.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent.parent / "tests" / "data" / "mxfp4_goldens.npz"
CASES = ("gpt_oss", "gpt_oss-group3-top1", "gpt_oss-window-beyond-the-prompt")
EXPERTS = ("gate_up_proj", "down_proj")


def random_blocks(name: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Blocks [experts, rows, cols / 32, 16] and scales of a tensor of experts; shape: [experts, cols, rows].

    Every nibble comes, and exponents 0, 1 and, with zeros alone, 254.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    experts, cols, rows = shape
    blocks = rng.integers(0, 256, (experts, rows, cols // 32, 16)).astype(np.uint8)
    scales = rng.integers(121, 125, (experts, rows, cols // 32)).astype(np.uint8)
    scales[0, 3], scales[0, 4], scales[1, 5], blocks[1, 5] = 0, 1, 254, 0x80
    return blocks, scales


def main() -> None:
    import torch
    from make_goldens import CASES as ALL
    from make_goldens import random_weights, token_ids
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.set_grad_enabled(False)
    logits = {}
    for case in CASES:
        settings = {key: value for key, value in ALL[case].items() if key != "model_type"}
        config = AutoConfig.for_model("gpt_oss", **settings)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for name, tensor in model.state_dict().items():
            if name.endswith(EXPERTS):
                coded = map(torch.from_numpy, random_blocks(name, tuple(tensor.shape)))
                tensor.copy_(convert_moe_packed_tensors(*coded, dtype=torch.float32))
            else:
                tensor.copy_(torch.from_numpy(random_weights(name, tuple(tensor.shape))))
        logits[case] = model(torch.from_numpy(token_ids(case))[None]).logits[0].numpy()
        print(f"{case:34} spread {logits[case].std():.3f}")
    np.savez_compressed(OUT, **logits)


if __name__ == "__main__":
    main()
