"""Checkpoints with experts of MXFP4: beside transformers, interrupted and resumed, and from a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA, FLOAT_SCHEMES, GOLDEN_CASES, goldens_tool, load_tool
from hub import Hub
from test_gpt_oss import mxfp4_tensors, write_mxfp4

from edge_lfm.architectures import family_of, read_shape
from edge_lfm.errors import OutputError
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import expert_name, plan_tensors
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.pull import pull_quantized
from edge_lfm.quantize import convert as convert_module
from edge_lfm.quantize import journal
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

RAW = GOLDEN_CASES["gpt_oss"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_mxfp4(tmp_path / "demo", RAW, mxfp4_tensors(RAW))


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run makes."""
    convert(source, tmp_path / "whole", None, threads=1)
    with PackedModel(tmp_path / "whole") as model:
        assert model.tensors[expert_name(0, 0)].matrices[0].scheme == "mxfp4_g32"
    return content(tmp_path / "whole")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_stopped_among_experts_goes_on(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, done = convert_module.pack_tensor, 0

    def stops(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done > 20:
            raise OutputError("stopped", hint="")
        return pack(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(journal, "SYNC_SECONDS", 0.0)
        patched.setattr(convert_module, "pack_tensor", stops)
        with pytest.raises(OutputError, match="stopped"):
            convert(source, tmp_path / "out", None, threads=1)
    assert not (tmp_path / "out").exists()
    report = convert(source, tmp_path / "out", None, threads=1, resume=True)
    assert report.resumed_tensors > 10
    assert content(tmp_path / "out") == whole


def test_what_is_packed_as_it_comes_from_a_hub_is_what_is_packed_of_the_whole(source: Path, tmp_path: Path) -> None:
    recipe = find_recipe("mxfp4")
    with Hub({"some/demo": source}) as hub:
        pull_quantized("some/demo", tmp_path / "pulled", recipe, endpoint=hub.endpoint)
        assert len(hub.ranges) > 20  # never a whole file
    convert(source, tmp_path / "whole", recipe)
    assert content(tmp_path / "pulled") == content(tmp_path / "whole")


coded_tool = load_tool("make_mxfp4_goldens")


@pytest.mark.parametrize("case", coded_tool.CASES)
def test_the_reference_computes_what_transformers_computes(case: str, tmp_path: Path) -> None:
    raw = GOLDEN_CASES[case]
    shape, family = read_shape(raw), family_of(raw)
    plan = plan_tensors(shape, FLOAT_SCHEMES)
    shapes = {family.hub_name(source.name): source.shape for tensor in plan for source in tensor.sources}
    tensors: dict[str, np.ndarray] = {}
    for name, stored in goldens_tool.stored_shapes(raw, shapes).items():
        if name.endswith(coded_tool.EXPERTS):
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = coded_tool.random_blocks(name, stored)
        else:
            tensors[name] = goldens_tool.random_weights(name, stored)
    with FolderCheckpoint(write_mxfp4(tmp_path / "coded", raw, tensors)) as checkpoint:
        weights = CheckpointWeights(checkpoint, shape, plan)
        logits = ReferenceModel(shape, weights).logits(goldens_tool.token_ids(case))
    with np.load(DATA / "mxfp4_goldens.npz") as goldens:
        golden = goldens[case]
    assert np.abs(logits - golden).max() < 1e-4 * np.abs(golden).max()
