"""Runners and steps of one sequence, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edge_lfm.engine import paged
from edge_lfm.engine.backend import Backend, Routing
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.engine.paged_runner import PagedRunner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.memory.budget import PagingPlan
from edge_lfm.memory.reader import BlockReader
from edge_lfm.model.binding import bind
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State


def all_rows(
    backend: Backend, ids: Sequence[int] | np.ndarray, state: State, routing: Routing | None = None
) -> np.ndarray:
    """One step; the logits [T, vocab] of all tokens."""
    return backend.run([Feed(state, ids, "all")], routing=routing)[0]


@contextmanager
def paged_model(
    folder: Path,
    keep: int,
    ring: int = 4,
    threads: int = 1,
    chunk: int = 512,
    way: str = "read",
    guessing: bool = False,
    cached_ratio: float | None = None,
) -> Iterator[PagedRunner]:
    """A runner that keeps `keep` experts for each layer, whatever that takes."""
    with PackedModel(folder) as model:
        layers = list(model.shape.routers)
        reader = BlockReader(model.folder / "model.safetensors")
        model.use_trunk(paged._read_trunk(reader, model))
        plan = PagingPlan(keep * len(layers), keep * len(layers) + ring, 0, paged.slot_bytes_of(model), len(layers))
        binding = bind(model)
        pager = paged.make_pager(model, binding, reader, plan, layers, way)
        lookahead = Lookahead(model) if guessing else None
        with PagedRunner(model, binding, load_kernels(), threads, pager, lookahead, cached_ratio, chunk) as runner:
            yield runner
