"""GGUF files of latent attention: names by the package's table, both forms of keys and values, what is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from conftest import FLOAT_SCHEMES, GOLDEN_CASES, write_checkpoint

from edge_lfm import Model
from edge_lfm.architectures import deepseek_v3, gguf_spelling, glm4_moe_lite
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.export.gguf import add_keys, write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.formats.gguf_checkpoint import GgufCheckpoint
from edge_lfm.formats.gguf_tokenizer import gguf_metadata, hub_files
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import plan_tensors
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.shape import Shape

CASES = [c for c in GOLDEN_CASES if c.startswith(("glm4_moe_lite", "deepseek_v3")) and "no-query-rank" not in c]
Edit = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file(case: str, case_checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """The case as a file with float32 weights."""
    with open_source(case_checkpoints[case]) as source:
        write_gguf(source, tmp_path / "m.gguf", "f32")
    return tmp_path / "m.gguf"


def weights_of(checkpoint: Any) -> dict[str, np.ndarray]:
    """All canonical tensors of a checkpoint."""
    shape = checkpoint.describe()
    tensors = plan_tensors(shape, FLOAT_SCHEMES)
    read = CheckpointWeights(checkpoint, shape, tensors)
    return {source.name: read(source.name).copy() for tensor in tensors for source in tensor.sources}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


def rewritten(path: Path, edit: Edit) -> Path:
    """A file with other keys and tensors, by the package."""
    reader, other = gguf.GGUFReader(path), path.with_name("other.gguf")
    keys = {k: f.contents() for k, f in reader.fields.items() if not k.startswith(("GGUF.", "general.architecture"))}
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    edit(keys, tensors)
    writer = gguf.GGUFWriter(other, "deepseek2")
    add_keys(writer, keys)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return other


def as_llama_cpp_converts(case: str, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors that `DeepseekV2Model.modify_tensors` makes of one, of which only rows in halves turn in pairs."""
    raw = GOLDEN_CASES[case]
    heads, plain, turned = (raw[key] for key in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim"))
    if name.endswith("kv_b_proj.weight"):
        each = values.reshape(heads, plain + raw["v_head_dim"], -1)
        k_b, v_b = each[:, :plain].transpose(0, 2, 1), each[:, plain:]
        return {name.replace("kv_b_proj", "k_b_proj"): k_b, name.replace("kv_b_proj", "v_b_proj"): v_b}
    if raw["rope_interleave"] or not name.endswith(("q_b_proj.weight", "kv_a_proj_with_mqa.weight")):
        return {name: values}
    rows = values.reshape(heads if "q_b" in name else 1, -1, values.shape[1]).copy()
    pairs = rows[:, -turned:].copy()
    rows[:, -turned::2], rows[:, 1 - turned :: 2] = pairs[:, : turned // 2], pairs[:, turned // 2 :]
    return {name: rows.reshape(values.shape)}


def test_names_and_values_are_those_of_the_converter(case: str, file: Path, case_checkpoints: dict[str, Path]) -> None:
    reader = gguf.GGUFReader(file)
    assert reader.fields["general.architecture"].contents() == "deepseek2"
    written = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, GOLDEN_CASES[case]["num_hidden_layers"])
    expected: dict[str, list[np.ndarray]] = {}
    with FolderCheckpoint(case_checkpoints[case]) as checkpoint:
        for stored in sorted(checkpoint.names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)]):
            for name, values in as_llama_cpp_converts(case, stored, checkpoint.read(stored)).items():
                known = re.sub(r"\.experts\.\d+\.", ".experts.", name)
                known = re.sub(r"e_score_correction_bias$", "e_score_correction.bias", known)
                theirs = names.get_name(known, try_suffixes=(".weight", ".bias"))
                assert theirs is not None, name
                expected.setdefault(theirs, []).append(values)
    assert written.keys() == expected.keys()
    for name, parts in expected.items():
        assert np.array_equal(written[name], np.stack(parts) if "_exps" in name else parts[0]), name


def test_out_and_in(case: str, file: Path, case_checkpoints: dict[str, Path]) -> None:
    with FolderCheckpoint(case_checkpoints[case]) as first, GgufCheckpoint(file) as again:
        assert_same(weights_of(again), weights_of(first))
        assert_alike(again.describe(), first.describe())


def assert_alike(found: Shape, expected: Shape) -> None:
    """Equal but for rounding numbers to float32, end tokens, which stand with a tokenizer, and the order of rows."""
    assert replace(found, eos=(), eps=0.0, layers=()) == replace(expected, eos=(), eps=0.0, layers=())
    assert found.eps == pytest.approx(expected.eps)
    for mine, theirs in zip(found.layers, expected.layers, strict=True):
        one, other = mine.operator, theirs.operator
        assert one.scale == pytest.approx(other.scale, rel=1e-6)
        same = {"scale": 1.0, "interleaved": True}
        assert replace(one, **same, rope=replace(one.rope, theta=1.0)) == replace(
            other, **same, rope=replace(other.rope, theta=1.0)
        )
        assert one.rope.theta == pytest.approx(other.rope.theta)
        if theirs.ffn.router is not None:
            assert mine.ffn.router is not None
            assert mine.ffn.router.scale == pytest.approx(theirs.ffn.router.scale)
            router = replace(mine.ffn.router, scale=theirs.ffn.router.scale)
            assert replace(mine.ffn, router=router) == theirs.ffn


def test_files_from_before_attention_was_absorbed(case: str, file: Path) -> None:
    """One tensor for plain keys and values, and the widths of a head where later files say those of what is kept."""
    raw = GOLDEN_CASES[case]
    heads, plain, value, rank = (
        raw[key] for key in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank")
    )

    def older(keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        for key in ("key", "value"):
            keys[f"deepseek2.attention.{key}_length"] = keys.pop(f"deepseek2.attention.{key}_length_mla")
        keys["deepseek2.attention.head_count_kv"] = heads
        for n in range(raw["num_hidden_layers"]):
            k_b, v_b = (tensors.pop(f"blk.{n}.attn_{part}_b.weight") for part in "kv")
            both = np.concatenate((k_b.transpose(0, 2, 1), v_b), axis=1)
            tensors[f"blk.{n}.attn_kv_b.weight"] = both.reshape(heads * (plain + value), rank)

    with GgufCheckpoint(rewritten(file, older)) as old, GgufCheckpoint(file) as new:
        assert_same(weights_of(old), weights_of(new))
        assert old.describe() == new.describe()


def test_layers_that_draft_are_left_out(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with open_source(case_checkpoints["glm4_moe_lite"]) as source:
        write_gguf(source, tmp_path / "m.gguf", "f32")
    count = GOLDEN_CASES["glm4_moe_lite"]["num_hidden_layers"]

    def drafting(keys: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        keys["deepseek2.block_count"] = count + 1
        keys["deepseek2.nextn_predict_layers"] = 1
        last = {name: values for name, values in tensors.items() if name.startswith(f"blk.{count - 1}.")}
        tensors |= {name.replace(f"blk.{count - 1}.", f"blk.{count}."): values for name, values in last.items()}
        tensors[f"blk.{count}.nextn.eh_proj.weight"] = np.zeros((4, 8), np.float32)

    with GgufCheckpoint(rewritten(tmp_path / "m.gguf", drafting)) as more, GgufCheckpoint(tmp_path / "m.gguf") as less:
        assert_same(weights_of(more), weights_of(less))
        assert more.describe() == less.describe()


def test_integers_are_carried_over(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Blocks of Q8_0 go out and come in as they are: in rows that turn, and in both matrices of heads."""
    convert(case_checkpoints["deepseek_v3"], tmp_path / "packed", find_recipe("int8"))
    with open_source(tmp_path / "packed") as source:
        write_gguf(source, tmp_path / "m.gguf", "q8_0")
    convert(tmp_path / "m.gguf", tmp_path / "again", find_recipe("int8"))
    with PackedModel(tmp_path / "packed") as first, PackedModel(tmp_path / "again") as second:
        for name in first.tensors:
            assert np.array_equal(first.bytes_of(name), second.bytes_of(name)), name


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mlp_layer_types": ["sparse", "dense", "sparse"], "first_k_dense_replace": None}, "dense layers are not"),
        ({"n_shared_experts": 0}, "n_shared_experts is 0"),
        ({"num_hidden_layers": 27}, "q_lora_rank beside 27 layers"),
        ({"rope_parameters": {"mscale": 0.5}}, "mscale is not mscale_all_dim"),
        ({"rope_parameters": {"mscale": None, "mscale_all_dim": None}}, "mscale is not mscale_all_dim"),
        ({"rope_parameters": {"truncate": False}}, "truncate is false"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    base = GOLDEN_CASES["deepseek_v3" if "rope_parameters" in change else "glm4_moe_lite"]
    if "rope_parameters" in change:
        change = {"rope_parameters": base["rope_parameters"] | change["rope_parameters"]}
    folder = write_checkpoint(tmp_path / "checkpoint", base | change)
    with open_source(folder) as source, pytest.raises(UnsupportedModelError, match=reason):
        write_gguf(source, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("expert_gating_func", 1, "expert_gating_func 1"),
        ("expert_gating_func", None, "expert_gating_func is missing"),
        ("rope.scaling.type", "linear", "rope scaling 'linear'"),
        ("rope.scaling.yarn_log_multiplier", None, "yarn_log_multiplier is missing"),
        ("rope.scaling.yarn_log_multiplier", 0.0, "yarn_log_multiplier is 0.0"),
        ("rope.scaling.yarn_attn_factor", 2.0, "yarn_attn_factor 2.0"),
        ("rope.freq_base", None, "freq_base is missing"),
        ("rope.dimension_count", None, "dimension_count is None"),
        ("attention.key_length_mla", 16, "qk_nope_head_dim is -16"),
        ("attention.kv_lora_rank", None, "kv_lora_rank is missing"),
        ("attention.sliding_window", 64, "sliding-window"),
        ("attention.temperature_scale", 0.5, "temperature_scale"),
        ("expert_shared_count", None, "expert_shared_count is missing"),
        ("nextn_predict_layers", "1", "nextn_predict_layers is '1'"),
    ],
)
def test_keys_are_refused_by_name(
    key: str, value: Any, word: str, case_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with open_source(case_checkpoints["deepseek_v3"]) as source:
        write_gguf(source, tmp_path / "m.gguf", "f32")

    def changed(keys: dict[str, Any], _tensors: dict[str, np.ndarray]) -> None:
        keys[f"deepseek2.{key}"] = value
        if value is None:
            del keys[f"deepseek2.{key}"]

    path = rewritten(tmp_path / "m.gguf", changed)
    with pytest.raises(UnsupportedModelError, match=re.escape(word)), GgufCheckpoint(path) as checkpoint:
        checkpoint.describe()


SPLITS = {"glm4": glm4_moe_lite.SPLIT, "deepseek-v3": deepseek_v3.SPLIT}
TEXTS = (
    "It's 1234567 o'clock, WE'LL see.\r\n\tx = y**2;  ",
    "日本語 한국어 中文字12345かな カナ é e\u0301 🙂",
    "a\n\n b",
)


@pytest.mark.parametrize("pre", SPLITS)
def test_the_tokenizer_tells_the_families_apart_and_survives(pre: str) -> None:
    """The demo's vocabulary, split as in the families' files, by the package tokenizers."""
    patterns = [SPLITS[pre]] if isinstance(SPLITS[pre], str) else list(SPLITS[pre])
    spelling = gguf_spelling({"general.architecture": "deepseek2", "tokenizer.ggml.pre": pre}, "here")
    assert spelling.model_types["deepseek2"] == {"glm4": "glm4_moe_lite", "deepseek-v3": "deepseek_v3"}[pre]
    raw = json.loads((demo_checkpoint() / "tokenizer.json").read_text(encoding="utf-8"))
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    raw["pre_tokenizer"]["pretokenizers"] = [*splits, raw["pre_tokenizer"]["pretokenizers"][-1]]
    raw["normalizer"] = {"type": "Sequence", "normalizers": []}  # as DeepSeek's file has it
    raw["model"]["ignore_merges"] = pre == "glm4"
    theirs = tokenizers.Tokenizer.from_str(json.dumps(raw))
    metadata = gguf_metadata({"tokenizer.json": json.dumps(raw).encode()}, 4096, spelling, "here")
    assert metadata["tokenizer.ggml.pre"] == pre
    again = hub_files(metadata, spelling, "here")["tokenizer.json"].decode()
    assert json.loads(again)["model"]["ignore_merges"] is (pre == "glm4")
    ours = tokenizers.Tokenizer.from_str(again)
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids


def test_a_file_without_a_vocabulary_runs(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with open_source(case_checkpoints["glm4_moe_lite"]) as source:
        write_gguf(source, tmp_path / "m.gguf", "f32")
    convert(tmp_path / "m.gguf", tmp_path / "again", find_recipe("float32"))
    convert(case_checkpoints["glm4_moe_lite"], tmp_path / "direct", find_recipe("float32"))
    with Model.load(tmp_path / "again", threads=1) as ours, Model.load(tmp_path / "direct", threads=1) as theirs:
        assert np.array_equal(ours.logits([1, 2, 3]), theirs.logits([1, 2, 3]))
