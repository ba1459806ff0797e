"""LFM3 where it differs from its family: GGUF files, forks of windowed caches, language models inside others.

The names of GGUF files are those of files that llama.cpp b12211 loads; the package gguf has no table of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import GOLDEN_CASES, goldens_tool, write_checkpoint
from safetensors.numpy import load_file, save_file
from stepping import all_rows

from edge_lfm.cli.main import main
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.state import State
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

NAMES = {  # GGUF's -> the hub's
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.embedding_norm.weight",
    "attn_norm.weight": "operator_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "post_attention_norm.weight": "post_operator_norm.weight",
    "post_ffw_norm.weight": "post_ffn_norm.weight",
    "shortconv.in_proj.weight": "conv.in_proj.weight",
    "shortconv.conv.weight": "conv.conv.weight",
    "shortconv.out_proj.weight": "conv.out_proj.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_gate.weight": "self_attn.gate_proj.weight",
    "ffn_gate.weight": "feed_forward.w1.weight",
    "ffn_up.weight": "feed_forward.w3.weight",
    "ffn_down.weight": "feed_forward.w2.weight",
}
KEYS = {
    "block_count": 6,
    "context_length": 256,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": [0, 0, 2, 0, 2, 0],
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.sliding_window": 11,
    "attention.sliding_window_pattern": [False, False, False, False, True, False],
    "rope.dimension_count": 32,
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
    "shortconv.l_cache": 7,
}


def write_lfm3(checkpoint: Path, path: Path) -> Path:
    with open_source(checkpoint) as source:
        write_gguf(source, path, "f32")
    return path


def rewrite(source: Path, path: Path, keys: dict[str, Any], rope_freqs: np.ndarray | None) -> Path:
    """A copy of a file by the package gguf, with other keys and another tensor of frequencies, or none."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, "lfm3")
    for key, found in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            value, kind = keys.get(key, found.contents()), found.types
            writer.add_key_value(key, value, kind[0], kind[-1] if len(kind) > 1 else None)
    for key in keys.keys() - reader.fields.keys():
        writer.add_bool(key, keys[key])
    for tensor in reader.tensors:
        if tensor.name != "rope_freqs.weight":
            writer.add_tensor(tensor.name, tensor.data)
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", rope_freqs)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_out_and_in(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path = write_lfm3(case_checkpoints["lfm3"], tmp_path / "m.gguf")
    reader = gguf.GGUFReader(path)
    assert {key: reader.fields[f"lfm3.{key}"].contents() for key in KEYS} == KEYS
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    expected = {"rope_freqs.weight": np.repeat(np.float32([1, 1e30]), 8)}
    for name, values in load_file(case_checkpoints["lfm3"] / "model.safetensors").items():
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        known = {hub: ours for ours, hub in NAMES.items()}
        expected[known[name] if name in known else f"blk.{layer}.{known[part]}"] = values.reshape(
            values.shape if values.ndim < 3 else (values.shape[0], -1)
        )
    assert expected.keys() == written.keys()
    assert all(np.array_equal(written[name], values) for name, values in expected.items())
    with open_checkpoint(path) as again, FolderCheckpoint(case_checkpoints["lfm3"]) as first:
        shape = first.describe()
        assert again.describe() == replace(shape, eps=float(np.float32(shape.eps)), bos=None, eos=())
        tensors = plan_tensors(shape, find_recipe("float32").schemes)
        mine, theirs = CheckpointWeights(again, shape, tensors), CheckpointWeights(first, shape, tensors)
        for source in (source for tensor in tensors for source in tensor.sources):
            assert np.array_equal(mine(source.name), theirs(source.name)), source.name


@pytest.mark.parametrize("case", ["lfm3-no-sandwich", "lfm3-no-gate", "lfm3-attention-only"])
def test_what_llama_cpp_has_not_is_refused(case: str, case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"conv_bias|use_attention_gate|layer_types"):
        write_lfm3(case_checkpoints[case], tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "divisors", "word"),
    [
        ({}, None, "rope_freqs.weight is missing"),
        ({}, [1.0] * 8 + [4.0] * 8, "scales positions"),
        ({}, [1e30] * 8 + [1.0] * 8, "scales positions"),
        ({}, [1.0] * 8, "has 8 numbers for heads of 32 values"),
        ({}, [np.nan] * 16, "scales positions"),
        ({"lfm3.attention.causal": False}, [1.0] * 16, "attention.causal false"),
        ({"lfm3.decision.type": True}, [1.0] * 16, "lfm3.decision.type is set"),
        ({"lfm3.attention.sliding_window_pattern": [True]}, [1.0] * 16, "must name every layer"),
        ({"lfm3.rope.dimension_count": 16}, [1.0] * 16, "rope.dimension_count 16"),
    ],
)
def test_what_a_gguf_file_asks_for_is_refused_by_name(
    keys: dict[str, Any],
    divisors: list[float] | None,
    word: str,
    case_checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    good = write_lfm3(case_checkpoints["lfm3"], tmp_path / "good.gguf")
    path = rewrite(good, tmp_path / "m.gguf", keys, None if divisors is None else np.float32(divisors))
    with pytest.raises(UnsupportedModelError, match=word):
        open_checkpoint(path)


def test_a_file_may_turn_all_pairs(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    good = write_lfm3(case_checkpoints["lfm3"], tmp_path / "good.gguf")
    with open_checkpoint(rewrite(good, tmp_path / "m.gguf", {}, np.ones(16, np.float32))) as checkpoint:
        assert checkpoint.describe().attentions[2].rope == replace(
            checkpoint.describe().attentions[4].rope, theta=1e6, turned=None
        )


@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
def test_forks_and_steps_back_change_nothing(kv_dtype: str, packed_cases: dict[str, dict[str, Path]]) -> None:
    """Behind the window and inside of it: seven taps and a window of eleven reach back further than a draft."""
    ids = np.random.default_rng(6).integers(0, 160, 96)
    with PackedModel(packed_cases["int8"]["lfm3"]) as model, Runner(model, load_kernels(), 1, 64) as runner:
        straight = State(model.shape, 96, kv_dtype)
        expected = np.concatenate([all_rows(runner, part, straight) for part in np.split(ids, range(1, 96, 5))])
        state = State(model.shape, 96, kv_dtype)
        all_rows(runner, ids[:40], state)
        early = state.checkpoint()
        runner.run([Feed(state, [*ids[40:52], 1, 2, 3, 4], "all", list(range(16)))])  # a draft, wrong from 52 on
        later = state.checkpoint_after(early, 12)
        for at, place in ((52, later), (40, early)):
            fork = State(model.shape, 96, kv_dtype)
            fork.copy_from(state, at)
            fork.go_back(place)
            assert np.array_equal(all_rows(runner, ids[at:], fork), expected[at:])
        state.go_back(later)
        assert np.array_equal(all_rows(runner, ids[52:], state), expected[52:])


@pytest.mark.parametrize(("case", "whole"), [("lfm3", "lfm3_vl"), ("lfm3", "lfm3_omni"), ("dense", "lfm2_vl")])
def test_of_a_model_that_sees_the_text_part_is_read(
    case: str, whole: str, case_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names and the form of the config are those that transformers 5.24 saves."""
    plain = load_file(case_checkpoints[case] / "model.safetensors")
    tensors = {name.replace("model.", "model.language_model.", 1): values for name, values in plain.items()}
    tensors |= {f"model.{part}.weight": np.zeros(3, np.float32) for part in ("vision_tower.x", "multi_modal_projector")}
    config = {key: value for key, value in GOLDEN_CASES[case].items() if key != "tie_word_embeddings"}
    folder = tmp_path / "in"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    outer = {"model_type": whole, "architectures": ["LfmVlForConditionalGeneration"], "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(outer | {"text_config": config, "tie_word_embeddings": True}))
    report = convert(folder, tmp_path / "out", find_recipe("float32"))
    assert f"{whole} is read as a language model only: 2 tensors of other parts are left out" in report.warnings[0]
    with PackedModel(tmp_path / "out") as model, Runner(model, load_kernels(), 1, 64) as runner:
        ids = goldens_tool.token_ids(case)
        found = all_rows(runner, ids, State(model.shape, len(ids)))
    convert(case_checkpoints[case], tmp_path / "plain", find_recipe("float32"))
    with PackedModel(tmp_path / "plain") as model, Runner(model, load_kernels(), 1, 64) as runner:
        assert np.array_equal(all_rows(runner, ids, State(model.shape, len(ids))), found)
    assert main(["inspect", str(folder)]) == 0
    assert "language model only" in capsys.readouterr().out


def test_the_text_part_of_an_unknown_family_is_not_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", GOLDEN_CASES["lfm3"])
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": GOLDEN_CASES["lfm3"]}))
    with pytest.raises(UnsupportedModelError, match="model_type 'llava'"):
        FolderCheckpoint(folder).describe()


@pytest.mark.parametrize(
    "config", [{}, {"text_config": {"model_type": ["lfm3"]}}, {"text_config": [], "model_type": 3}]
)
def test_a_config_of_no_type_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", GOLDEN_CASES["lfm3"])
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="model_type"):
        FolderCheckpoint(folder).describe()
