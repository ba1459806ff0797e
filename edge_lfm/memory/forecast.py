"""`forecast.safetensors` beside a packed model: read and checked. Knows no scores (`memory/policy.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ModelFileError
from edge_lfm.formats.file_list import check_unchanged
from edge_lfm.formats.safetensors import SafetensorsFile
from edge_lfm.memory.policy import HALF_LIVES, HORIZONS


def read_forecast(path: Path, layers: int, experts: int) -> NDArray[np.float16]:
    """The weights of `LearnedUse`, float16 [horizons, layers, features, experts].

    layers: those that have experts.

    Raises:
        ModelFileError: the file is damaged, of another shape, or holds NaN or infinity.
    """
    check_unchanged(path)
    with SafetensorsFile(path) as file:
        stored = file.stored("weights")
        expected = (len(HORIZONS), layers, 1 + (layers + len(HALF_LIVES)) * experts, experts)
        if stored.dtype != np.float16 or stored.shape != expected:
            raise ModelFileError(
                f"{path} is a forecast of another shape, {list(stored.shape)} {stored.dtype}",
                hint="remove it, or quantize again",
            )
        weights: NDArray[np.float16] = stored.copy()
    if not np.isfinite(weights).all():
        raise ModelFileError(f"{path} holds NaN or infinity", hint="remove it, or quantize again")
    return weights
