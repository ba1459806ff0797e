"""Text for calibration and evaluation, cut into windows of tokens as llama-perplexity does.

The text is tokenized once; windows are consecutive, and the first token of each is replaced by the token that begins
a text. What is left over at the end is dropped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import UsageError
from edge_lfm.text.tokenizer import Tokenizer


def windows_of(folder: Path, text: str, length: int, limit: int) -> list[NDArray[np.int64]]:
    """Windows of `length` tokens, at most `limit`, by the tokenizer in `folder`.

    Raises:
        UsageError: the text is shorter than a window, or there is no tokenizer.
    """
    if not (folder / "tokenizer.json").exists():
        raise UsageError(f"{folder} has no tokenizer.json", hint="copy the tokenizer's files there")
    tokenizer = Tokenizer(folder)
    ids = np.array(tokenizer.encode(text, bos=True, special=False), np.int64)
    count = min(limit, len(ids) // length)
    if count == 0:
        raise UsageError(
            f"the text has {len(ids)} tokens, less than a window of {length}",
            hint="give more text, or a smaller --window",
        )
    windows = ids[: count * length].reshape(count, length).copy()
    if tokenizer.start_id is not None:
        windows[:, 0] = tokenizer.start_id
    return list(windows)
