"""Make tests/data/vocabulary.npz with transformers: a tiny random LFM2.5 with as large a vocabulary as the published.

    .golden/bin/python tools/make_vocabulary_goldens.py        # the environment of make_goldens.py

As the files of LFM2.5 are: 128,000 rows, control tokens from 124893 on, a theta of 5e6 in `rope_parameters` only,
several tokens that end an answer. Of each row of logits, those of `COLUMNS` are kept.
"""

from __future__ import annotations

import numpy as np
from make_goldens import MOE, OUT, logits_of

PAD, BOS, END, LAST = 124893, 124894, 124900, 127999
CONFIG = MOE | {
    "vocab_size": 128000,
    "num_hidden_layers": 2,
    "layer_types": ["conv", "full_attention"],
    "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"},
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": [END, PAD],
}
IDS = np.array([BOS, 0, 1, PAD - 1, PAD, END, LAST, 65535, 65536, 100_000, *range(125_009, 125_031)])
COLUMNS = np.unique(np.r_[0:64, 64 : LAST + 1 : 1009, PAD - 16 : 125_040, LAST - 15 : LAST + 1])


def main() -> None:
    logits = logits_of(CONFIG, IDS)
    np.savez_compressed(OUT / "vocabulary.npz", logits=logits[:, COLUMNS], best=logits.argmax(1))


if __name__ == "__main__":
    main()
