"""What gpt-oss alone has: its config, and experts of MXFP4 that keep their bits on every way in and out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import FLOAT_SCHEMES, GOLDEN_CASES, goldens_tool, write_checkpoint
from test_engine import divergence, engine_and_reference_logits, engine_logits, farthest_stray, reference_logits

from edge_lfm.architectures import gpt_oss, read_shape
from edge_lfm.architectures.gpt_oss import FAMILY
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.errors import ModelFileError, UnsupportedModelError
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.formats.gguf_checkpoint import GgufCheckpoint
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.plan import expert_name, plan_tensors
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.shape import Attention, Ffn, Gated, Layer, Rope, Router, Shape, Yarn

PUBLISHED = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "max_position_embeddings": 131072,
    "attention_bias": True,
    "eos_token_id": 200002,
}


def shape_of(raw: dict) -> Shape:
    return gpt_oss.read(ConfigReader(raw, "config.json", "hint"))


def test_the_published_config_is_read() -> None:
    shape = shape_of(PUBLISHED)
    rope = Rope(150000.0, 64, scaling=Yarn(32.0, 4096, truncate=False), magnitude=0.1 * np.log(32) + 1)
    full = Attention(64, 8, 64, rope, "none", bias=True, out_bias=True, sinks=True)
    sliding = Attention(64, 8, 64, rope, "none", window=128, bias=True, out_bias=True, sinks=True)
    router = Router(32, 4, "softmax", selection_bias=False, normalize=True, guard=0.0, scale=1.0, bias=True)
    ffn = Ffn(2880, router, gated=Gated(1.702, 7.0, 1.0), bias=True)
    assert shape.layers == (Layer(sliding, ffn), Layer(full, ffn)) * 12


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": False}, "attention_bias False"),
        ({"layer_types": ["conv"] * 24}, "layer type 'conv'"),
        ({"layer_types": []}, "num_hidden_layers = 24"),
        ({"sliding_window": None}, "sliding_window is missing"),
        ({"swiglu_limit": 0}, "swiglu_limit is 0"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"num_experts_per_tok": 33}, "num_experts_per_tok 33"),
    ],
)
def test_configs_are_refused_by_name(change: dict, word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        shape_of(PUBLISHED | change)


# Experts of MXFP4. What their bytes mean is spelled out here once more, after transformers' `integrations/mxfp4.py`.

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def meant(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 [..., rows, cols] of blocks [..., rows, groups, 16] and their scales."""
    values = np.empty((*blocks.shape[:-1], 32))
    values[..., 0::2], values[..., 1::2] = np.take(E2M1, blocks & 15), np.take(E2M1, blocks >> 4)
    values *= 2.0 ** (scales[..., None].astype(np.float64) - 127)
    return values.reshape(*blocks.shape[:-2], -1).astype(np.float32)


def expert_values(tensors: dict[str, np.ndarray], layer: int, expert: int) -> dict[str, np.ndarray]:
    at = f"model.layers.{layer}.mlp.experts"
    both, down = (
        meant(tensors[f"{at}.{name}_blocks"][expert], tensors[f"{at}.{name}_scales"][expert])
        for name in ("gate_up_proj", "down_proj")
    )
    return {"w1": both[0::2], "w3": both[1::2], "w2": down}


def mxfp4_tensors(raw: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of a case with random blocks for experts, exponents 0, 1 and 254 among them."""
    rng, experts = np.random.default_rng(seed), raw["num_local_experts"]
    shape = read_shape(raw)
    shapes = {
        FAMILY.hub_name(source.name): source.shape
        for tensor in plan_tensors(shape, FLOAT_SCHEMES)
        for source in tensor.sources
    }
    tensors = {}
    for name, stored in goldens_tool.stored_shapes(raw, shapes).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = goldens_tool.random_weights(name, stored)
            continue
        _, cols, rows = stored
        blocks = rng.integers(0, 256, (experts, rows, cols // 32, 16)).astype(np.uint8)
        scales = rng.integers(121, 125, (experts, rows, cols // 32)).astype(np.uint8)
        scales[0, 3], scales[0, 4], scales[1, 5], blocks[1, 5] = 0, 1, 254, 0x80
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return tensors


def write_mxfp4(folder: Path, raw: dict, tensors: dict[str, np.ndarray]) -> Path:
    return write_checkpoint(folder, raw | {"quantization_config": {"quant_method": "mxfp4"}}, tensors)


@pytest.fixture(scope="module", params=["gpt_oss", "gpt_oss-group3-top1"])
def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """A checkpoint with experts of MXFP4, its tensors, and its case."""
    raw = GOLDEN_CASES[request.param]
    tensors = mxfp4_tensors(raw)
    return write_mxfp4(tmp_path_factory.mktemp("mxfp4") / "checkpoint", raw, tensors), tensors, request.param


@pytest.fixture(scope="module")
def packed(coded: tuple[Path, dict, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mxfp4") / "packed"
    convert(coded[0], folder, None)
    return folder


def test_the_default_recipe_keeps_experts_bit_for_bit(coded: tuple[Path, dict, str], packed: Path) -> None:
    with PackedModel(packed) as model:
        assert model.schemes.recipe == "like-source"
        assert {model.tensors[expert_name(n, 0)].matrices[0].scheme for n in model.shape.routers} == {"mxfp4_g32"}
        weights = UnpackedWeights(model, integers=False)
        for n, router in model.shape.routers.items():
            for e in range(router.experts):
                at = f"{expert_name(n, e)}"
                for name, values in expert_values(coded[1], n, e).items():
                    assert np.array_equal(weights(f"{at}.{name}.weight"), values), (n, e, name)
    report = json.loads((packed / "quantization_report.json").read_text(encoding="utf-8"))
    assert report["relative_rmse_by_class"]["experts"] == 0.0


def test_biases_lie_behind_the_matrices(coded: tuple[Path, dict, str], packed: Path) -> None:
    with PackedModel(packed) as model:
        weights = UnpackedWeights(model, integers=True)
        for n in model.shape.routers:
            both = coded[1][f"model.layers.{n}.mlp.experts.gate_up_proj_bias"]
            down = coded[1][f"model.layers.{n}.mlp.experts.down_proj_bias"]
            for e in range(len(both)):
                expected = {"w1": both[e, 0::2], "w3": both[e, 1::2], "w2": down[e]}
                for name, values in expected.items():
                    assert np.array_equal(weights(f"{expert_name(n, e)}.{name}.bias"), values), (n, e, name)


def test_the_engine_follows_the_reference(coded: tuple[Path, dict, str], packed: Path) -> None:
    ids = goldens_tool.token_ids(coded[2])
    logits, expected = engine_and_reference_logits(packed, ids)
    gap = divergence(expected, logits)
    effect = divergence(reference_logits(packed, ids, integers=False), expected)
    assert gap[0] < 1e-9
    assert gap.mean() < effect.mean() / 2 or gap.mean() < 1.1 * farthest_stray(packed, ids)
    for splits, threads in (([1], 1), ([3, 4, 30], 2), ([16, 32], 3)):
        assert np.array_equal(engine_logits(packed, ids, splits, threads), engine_logits(packed, ids))


def test_gguf_out_and_in_keeps_the_values(coded: tuple[Path, dict, str], packed: Path, tmp_path: Path) -> None:
    """The package gguf reads what was written; the file, packed again, has the bytes that it was made of."""
    with open_source(packed) as source, pytest.raises(UnsupportedModelError, match="swiglu_limit"):
        write_gguf(source, tmp_path / "no.gguf")
    raw = GOLDEN_CASES[coded[2]] | {"swiglu_limit": 7.0}
    tensors = {  # as this package writes zeros, without a sign
        name: _without_negative_zeros(values) if name.endswith("_blocks") else values
        for name, values in coded[1].items()
    }
    write_mxfp4(tmp_path / "checkpoint", raw, tensors)
    convert(tmp_path / "checkpoint", tmp_path / "packed", None)
    with open_source(tmp_path / "packed") as source:
        write_gguf(source, tmp_path / "m.gguf")
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for n in range(raw["num_hidden_layers"]):
        for e in range(raw["num_local_experts"]):
            for part, values in zip(("gate", "up", "down"), expert_values(tensors, n, e).values(), strict=True):
                stored = read[f"blk.{n}.ffn_{part}_exps.weight"]
                assert stored.tensor_type == gguf.GGMLQuantizationType.MXFP4
                found = gguf.quants.dequantize(stored.data[e], stored.tensor_type)
                assert np.array_equal(found, values), (n, e, part)
    convert(tmp_path / "m.gguf", tmp_path / "again", None)
    with PackedModel(tmp_path / "packed") as first, PackedModel(tmp_path / "again") as second:
        for n, router in first.shape.routers.items():
            for e in range(router.experts):
                assert np.array_equal(first.bytes_of(expert_name(n, e)), second.bytes_of(expert_name(n, e)))


def test_gguf_names_are_those_of_the_package(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder, path = case_checkpoints["gpt_oss-window-beyond-the-prompt"], tmp_path / "m.gguf"
    with open_source(folder) as source:
        write_gguf(source, path, "f32")
    reader = gguf.GGUFReader(path)
    written = {tensor.name for tensor in reader.tensors}
    known = [gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.GPT_OSS]]
    layers = GOLDEN_CASES["gpt_oss"]["num_hidden_layers"]
    expected = {name.format(bid=n) for name in known for n in range(layers)}
    assert {name.rpartition(".")[0] for name in written} == expected
    biased = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp"}
    biased |= {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
    assert {name for name in written if name.endswith(".bias")} == {
        f"blk.{n}.{name}.bias" for n in range(layers) for name in biased
    }
    with FolderCheckpoint(folder) as first, GgufCheckpoint(path) as second:
        shape = first.describe()
        tensors = plan_tensors(shape, FLOAT_SCHEMES)
        assert second.describe() == replace(shape, eps=float(np.float32(shape.eps)), eos=())
        one, other = (CheckpointWeights(checkpoint, shape, tensors) for checkpoint in (first, second))
        for part in (source for tensor in tensors for source in tensor.sources):
            assert np.array_equal(one(part.name), other(part.name)), part.name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"swiglu_alpha": 1.5}, "swiglu_alpha and swiglu_limit are not 1.702 and 7.0"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types is not"),
        ({"rope_parameters": PUBLISHED["rope_scaling"] | {"rope_theta": 1e4, "truncate": True}}, "truncate is true"),
        (
            {"rope_parameters": PUBLISHED["rope_scaling"] | {"rope_theta": 1e4, "attention_factor": 2.0}},
            "is 2, not 1.34",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(change: dict, word: str, tmp_path: Path) -> None:
    raw = GOLDEN_CASES["gpt_oss-window-beyond-the-prompt"] | change
    folder = write_checkpoint(tmp_path / "checkpoint", raw)
    with open_source(folder) as source, pytest.raises(UnsupportedModelError, match=word):
        write_gguf(source, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def _without_negative_zeros(blocks: np.ndarray) -> np.ndarray:
    low, high = blocks & 15, blocks >> 4
    low[low == 8], high[high == 8] = 0, 0
    return (low | high << 4).astype(np.uint8)


@pytest.mark.parametrize("as_gguf", [False, True], ids=["checkpoint", "gguf"])
def test_an_exponent_that_is_no_number_is_refused_by_name(as_gguf: bool, tmp_path: Path) -> None:
    raw = GOLDEN_CASES["gpt_oss-window-beyond-the-prompt"]
    tensors = mxfp4_tensors(raw)
    name, stored = "model.layers.1.mlp.experts.down_proj", "blk.1.ffn_down_exps.weight"
    source = tmp_path / "checkpoint"
    if as_gguf:
        write_mxfp4(source, raw, tensors)
        convert(source, tmp_path / "packed", None)
        source = tmp_path / "m.gguf"
        with open_source(tmp_path / "packed") as packed:
            write_gguf(packed, source)
        reader = gguf.GGUFReader(source, "r+")
        data = next(tensor.data for tensor in reader.tensors if tensor.name == stored)
        data[2, 9, 0] = 255
        data.base.flush() if hasattr(data.base, "flush") else reader.data.flush()
    else:
        tensors[f"{name}_scales"][2, 9, 0] = 255
        write_mxfp4(source, raw, tensors)
    with pytest.raises(ModelFileError, match=f"{stored if as_gguf else name} holds NaN or infinity"):
        convert(source, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_blocks_that_do_not_fit_their_scales_are_refused(tmp_path: Path) -> None:
    raw = GOLDEN_CASES["gpt_oss"]
    tensors = mxfp4_tensors(raw)
    name = "model.layers.0.mlp.experts.gate_up_proj_scales"
    tensors[name] = tensors[name][:, :-1].copy()
    with pytest.raises(ModelFileError, match=f"{name} is U8 .* does not fit blocks of"):
        convert(write_mxfp4(tmp_path / "checkpoint", raw, tensors), tmp_path / "out", None)


def test_checkpoints_of_floats_take_the_recipe_too(tmp_path: Path) -> None:
    """Experts that MXFP4 holds exactly are found again by the encoder, whatever they come as."""
    raw = GOLDEN_CASES["gpt_oss"]
    tensors = mxfp4_tensors(raw)
    plain = {name: values for name, values in tensors.items() if not name.endswith(("_blocks", "_scales"))}
    for name in [name for name in tensors if name.endswith("_blocks")]:
        fused = name.removesuffix("_blocks")
        scales = np.clip(tensors[f"{fused}_scales"], 100, 130)
        tensors[f"{fused}_scales"] = scales
        plain[fused] = np.ascontiguousarray(meant(tensors[name], scales).transpose(0, 2, 1))
    write_mxfp4(tmp_path / "coded", raw, tensors)
    write_checkpoint(tmp_path / "plain", raw, plain)
    for name in ("coded", "plain"):
        convert(tmp_path / name, tmp_path / f"{name}-packed", find_recipe("mxfp4"))
    with PackedModel(tmp_path / "coded-packed") as first, PackedModel(tmp_path / "plain-packed") as second:
        one, other = (UnpackedWeights(model, integers=False) for model in (first, second))
        for e in range(raw["num_local_experts"]):
            for part in ("w1", "w3", "w2"):
                name = f"{expert_name(0, e)}.{part}.weight"
                assert np.array_equal(one(name), other(name)), name
