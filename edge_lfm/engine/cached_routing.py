"""Routing that prefers experts in memory: opt-in, for models whose experts are paged, one token at a time.

`cached:0.9` takes an expert that is in memory in place of a missing one if its score is at least 0.9 of the other's.
The router's first choice is always taken. Answers then depend on what is in memory: it is never the default, and its
cost is measured in docs/paging.md. Plain NumPy on the scores of one token.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import UsageError
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.kernels.spec.routing import select, weigh
from edge_lfm.shape import Router


def parse_routing(text: str) -> float | None:
    """The ratio of `cached:RATIO`, or None for `exact`.

    Raises:
        UsageError: it is neither.
    """
    if text == "exact":
        return None
    match = re.fullmatch(r"cached:(0?\.\d+|1(?:\.0*)?)", text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"unknown routing '{text}'", hint="choose exact, or cached:RATIO with a ratio like 0.9")
    return float(match[1])


def choose_cached(
    scores: F32, bias: F32 | None, present: NDArray[np.bool_], ratio: float, router: Router
) -> tuple[I64, F32]:
    """The chosen experts [k] of one token, and their weights [k].

    scores: of the router's logits, [experts]; bias: for the selection only; present: experts in memory.
    """
    selection = scores if bias is None else scores + bias
    worth = np.where(present, selection, selection - (1 - ratio) * np.abs(selection))
    worth[np.argmax(selection)] = np.inf
    chosen = select(worth, router)
    return chosen, weigh(scores, chosen, router)
