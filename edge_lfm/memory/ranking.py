"""How much the experts of a paged model were used, kept in this user's cache over restarts.

A model that starts again knows which experts are worth their memory, and reads the best of them while nobody asks.
The file holds the counters of `DecayedUse`, float32, and nothing of what was asked. It is a cache: one that is missing,
damaged or cannot be written changes no answer. Knows neither slots nor reads.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.formats.file_list import LIST
from edge_lfm.memory.policy import DECAY, HALF_LIVES
from edge_lfm.paths import cache_folder

MAX_RANKINGS = 64
"""Models whose counters are kept; those of the 24B take 49 kB."""
_MOST = 1.001 / (1 - DECAY)
"""More than the counters of an expert that every token uses."""


def ranking_path(model: Path) -> Path | None:
    """Where the counters of the packed model in a folder are kept; None: an earlier version made it."""
    with suppress(OSError):
        key = hashlib.sha256(os.fsencode(model.resolve()) + b"\0" + (model / LIST).read_bytes()).hexdigest()
        return cache_folder() / "ranking" / f"{key[:32]}.f32"
    return None


def read_ranking(path: Path, layers: int, experts: int) -> NDArray[np.float32] | None:
    """Counters float32 [layers, half-lives, experts]; None: there are none that could be of this model."""
    with suppress(OSError):
        data = path.read_bytes()
        if len(data) == 4 * layers * len(HALF_LIVES) * experts:
            counters = np.frombuffer(data, "<f4").reshape(layers, len(HALF_LIVES), experts)
            if (counters >= 0).all() and (counters <= _MOST[:, None]).all():
                return counters
    return None


def write_ranking(path: Path, counters: NDArray[np.float32]) -> None:
    """Keep counters for the next start, and those of the `MAX_RANKINGS` models that were used last."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(counters.astype("<f4").tobytes())
        partial.replace(path)
        by_age = sorted(path.parent.glob("*.f32"), key=lambda kept: kept.stat().st_mtime)
        for old in by_age[:-MAX_RANKINGS]:
            old.unlink()
