"""The demo model's embedded drafter: by name, small, and worth its rounds on prompts that it was not trained on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT

from edge_lfm import Model
from edge_lfm.demo import demo_checkpoint, demo_drafter
from edge_lfm.errors import DrafterError, EdgeLfmError
from edge_lfm.measure.tasks import read_tasks

sys.path.insert(0, str(ROOT / "tools"))

from demo.drafter_rounds import tokens_a_round

MOST_BYTES = 3_000_000
LEAST = 2.6
"""Tokens a round with eight drafts."""


@pytest.mark.slow
def test_rounds_give_several_tokens_and_answers_are_those_without_drafts() -> None:
    """Every tenth of the samples that the demo model is judged by: their values are in no training sample."""
    tasks = read_tasks(demo_checkpoint() / "tasks.jsonl")[::10]
    with Model.load(draft="demo", context=1024, cache=1) as model:
        assert tokens_a_round(model, tasks, [8])[0] >= LEAST


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in demo_drafter().iterdir()) < MOST_BYTES


def test_it_drafts_for_the_demo_model_only(
    packed_cases: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DrafterError, match="a vocabulary of 4096"):
        Model.load(packed_cases["int4"]["moe"], draft="demo")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeLfmError, match="demo"):  # a folder, which is not there
        Model.load(draft="./demo")
