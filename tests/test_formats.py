"""Files: the safetensors reader against the safetensors package, hostile headers, the packed container."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN_CASES, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import EdgeLfmError, ModelFileError, OutputError, UnsupportedModelError
from edge_lfm.formats import float8
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.formats.packed import PackedFile, PackedWriter, TensorSpec
from edge_lfm.formats.safetensors import SafetensorsFile
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.plan import BLOCK_ALIGNMENT
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe


def hostile(header: bytes | dict, body: bytes = b"", length: int | None = None) -> bytes:
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + body


def entry(first: int, last: int, dtype: str = "U8", shape: list | None = None) -> dict:
    return {"dtype": dtype, "shape": [last - first] if shape is None else shape, "data_offsets": [first, last]}


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "header longer than the file": hostile({}, length=1 << 62),
    "header just too long": hostile({}, length=3),
    "not JSON": hostile(b"{nope"),
    "not UTF-8": hostile(b"\xff\xfe"),
    "deep": hostile(b"[" * 100_000),
    "a list": hostile(b"[]"),
    "duplicate names": hostile(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "beyond the end": hostile({"a": entry(0, 10)}, b"123"),
    "hole": hostile({"a": entry(0, 2), "b": entry(3, 5)}, b"12345"),
    "overlap": hostile({"a": entry(0, 3), "b": entry(2, 5)}, b"12345"),
    "reversed": hostile({"a": entry(3, 1, shape=[2])}, b"12345"),
    "negative": hostile({"a": entry(-2, 3, shape=[5])}, b"12345"),
    "trailing bytes": hostile({"a": entry(0, 2)}, b"12345"),
    "wrong size": hostile({"a": entry(0, 5, "F32", [2])}, b"12345"),
    "overflowing shape": hostile({"a": entry(0, 5, shape=[1 << 40, 1 << 40])}, b"12345"),
    "unknown dtype": hostile({"a": entry(0, 5, "Q4", [5])}, b"12345"),
    "float shape": hostile({"a": entry(0, 5, shape=[5.0])}, b"12345"),
    "no entry": hostile({"a": 5}),
    "string offsets": hostile({"a": {"dtype": "U8", "shape": [1], "data_offsets": ["0", "1"]}}, b"1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        SafetensorsFile(path)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        SafetensorsFile(path)


def test_no_truncation_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"a": np.arange(40, dtype=np.float32), "b": np.ones((2, 3), np.float16)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            SafetensorsFile(path)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero"), tmp_path / "absent"):
        with pytest.raises(ModelFileError):
            SafetensorsFile(path)


def test_values_equal_the_safetensors_package() -> None:
    path = demo_checkpoint() / "model.safetensors"
    with SafetensorsFile(path) as ours, safe_open(path, "numpy") as theirs:
        assert set(ours.tensors) == set(theirs.keys())
        for name, info in ours.tensors.items():
            if info.dtype == "F32":
                assert np.array_equal(ours.read(name), theirs.get_tensor(name))
            else:
                bits = np.frombuffer(ours.bytes_of(info), np.uint16)
                assert np.array_equal(ours.read(name).ravel().view(np.uint32), bits.astype(np.uint32) << 16)


def test_float16_and_one_entry_of_many(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    values = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float16)
    save_file({"h": values, "i": np.arange(3)}, path)
    with SafetensorsFile(path) as file:
        assert np.array_equal(file.read("h"), values.astype(np.float32))
        assert np.array_equal(file.read("h", 3), values[3].astype(np.float32))
        with pytest.raises(ModelFileError, match="dtype I64"):
            file.read("i")


def shard(folder: Path, raw: dict, split: int) -> Path:
    """The same checkpoint in two shards with an index."""
    write_checkpoint(folder, raw)
    with safe_open(folder / "model.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in set(file.keys())}
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:split], "b.safetensors": names[split:]}
    for name, members in parts.items():
        save_file({m: tensors[m] for m in members}, folder / name)
    index = {"metadata": {}, "weight_map": {m: name for name, members in parts.items() for m in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_shards(tmp_path: Path) -> None:
    raw = GOLDEN_CASES["moe"]
    whole, parts = write_checkpoint(tmp_path / "whole", raw), shard(tmp_path / "parts", raw, 20)
    convert(whole, tmp_path / "p1", find_recipe("int4"))
    convert(parts, tmp_path / "p2", find_recipe("int4"))
    assert (tmp_path / "p1/model.safetensors").read_bytes() == (tmp_path / "p2/model.safetensors").read_bytes()
    (parts / "b.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"b\.safetensors does not exist"):
        FolderCheckpoint(parts)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", ".hidden", "", 5, None])
def test_an_index_cannot_lead_out_of_the_folder(name: object, tmp_path: Path) -> None:
    parts = shard(tmp_path / "parts", GOLDEN_CASES["dense"], 5)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}), encoding="utf-8")
    with pytest.raises(ModelFileError, match="not a file beside it"):
        FolderCheckpoint(parts)


def fused(folder: Path, raw: dict, prefix: str = "model.") -> Path:
    """A checkpoint as transformers 5 holds it in memory: experts fused, optionally without the prefix."""
    write_checkpoint(folder, raw)
    with safe_open(folder / "model.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in set(file.keys())}
    for n in range(raw["num_hidden_layers"]):
        at = f"model.layers.{n}.feed_forward.experts"
        if f"{at}.0.w1.weight" not in tensors:
            continue
        experts = range(raw["num_experts"])
        parts = {w: [tensors.pop(f"{at}.{e}.{w}.weight") for e in experts] for w in ("w1", "w2", "w3")}
        tensors[f"{at}.gate_up_proj"] = np.stack(
            [np.concatenate([a, b]) for a, b in zip(parts["w1"], parts["w3"], strict=True)]
        )
        tensors[f"{at}.down_proj"] = np.stack(parts["w2"])
    save_file(
        {prefix + name.removeprefix("model."): value for name, value in tensors.items()}, folder / "model.safetensors"
    )
    return folder


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_fused_experts_and_missing_prefix(prefix: str, tmp_path: Path) -> None:
    raw = GOLDEN_CASES["moe"]
    convert(write_checkpoint(tmp_path / "plain", raw), tmp_path / "p1", find_recipe("int8"))
    convert(fused(tmp_path / "fused", raw, prefix), tmp_path / "p2", find_recipe("int8"))
    assert (tmp_path / "p1/model.safetensors").read_bytes() == (tmp_path / "p2/model.safetensors").read_bytes()


def test_packed_file_is_safetensors_for_anyone(demo: dict[str, Path]) -> None:
    with safe_open(demo["int4"] / "model.safetensors", "numpy") as theirs, PackedModel(demo["int4"]) as ours:
        names = set(theirs.keys())
        for name, tensor in ours.tensors.items():
            assert name in names
            assert np.array_equal(theirs.get_tensor(name).view(np.uint8).ravel(), ours.bytes_of(name))
            if tensor.aligned:
                assert ours.file.file.tensors[name].start % BLOCK_ALIGNMENT == 0


def test_float32_packs_without_loss(
    case_checkpoints: dict[str, Path], packed_cases: dict[str, dict[str, Path]]
) -> None:
    for case, source in case_checkpoints.items():
        with PackedModel(packed_cases["float32"][case]) as model, FolderCheckpoint(source) as checkpoint:
            weights, tensors = UnpackedWeights(model, integers=False), list(model.tensors.values())
            stored = CheckpointWeights(checkpoint, model.shape, tensors)  # refuses a checkpoint that has more, or less
            for name in (part.name for tensor in tensors for part in tensor.sources):
                assert np.array_equal(weights(name), stored(name)), (case, name)


def test_every_flipped_bit_is_noticed(demo: dict[str, Path], tmp_path: Path) -> None:
    source = demo["int4"] / "model.safetensors"
    raw = bytearray(source.read_bytes())
    with PackedModel(demo["int4"]) as model:
        assert model.verify() == []
        infos = [model.file.file.tensors[name] for name in model.tensors]
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_bytes((demo["int4"] / "config.json").read_bytes())
    rng = np.random.default_rng(0)
    for info in rng.choice(np.array(infos, dtype=object), 12, replace=False):
        at = int(rng.integers(info.start, info.end))
        raw[at] ^= 1 << int(rng.integers(8))
        (folder / "model.safetensors").write_bytes(raw)
        with PackedModel(folder) as model:
            assert model.verify() == [info.name]
        raw = bytearray(source.read_bytes())


def test_swapped_experts_are_noticed(demo: dict[str, Path], tmp_path: Path) -> None:
    raw = bytearray((demo["int4"] / "model.safetensors").read_bytes())
    with PackedModel(demo["int4"]) as model:
        a, b = (model.file.file.tensors[f"model.layers.3.feed_forward.experts.{e}"] for e in (2, 5))
    raw[a.start : a.end], raw[b.start : b.end] = raw[b.start : b.end], raw[a.start : a.end]
    (tmp_path / "model.safetensors").write_bytes(raw)
    (tmp_path / "config.json").write_bytes((demo["int4"] / "config.json").read_bytes())
    with PackedModel(tmp_path) as model:
        assert model.verify() == [a.name, b.name]


def test_truncated_packed_model_is_refused(demo: dict[str, Path], tmp_path: Path) -> None:
    raw = (demo["int4"] / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((demo["int4"] / "config.json").read_bytes())
    for length in (0, 7, 8, 1000, len(raw) // 2, len(raw) - 1):
        (tmp_path / "model.safetensors").write_bytes(raw[:length])
        with pytest.raises(ModelFileError):
            PackedModel(tmp_path)


def test_config_and_weights_must_belong_together(packed_cases: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    for name in ("moe-all-sparse", "dense"):
        (tmp_path / "config.json").write_bytes((packed_cases["int4"][name] / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes((packed_cases["int4"]["moe"] / "model.safetensors").read_bytes())
        with pytest.raises(ModelFileError, match=r"missing|config\.json asks"):
            PackedModel(tmp_path)


def test_an_unfinished_file_is_no_safetensors_file_and_can_be_finished(tmp_path: Path) -> None:
    specs = [TensorSpec("a", "U8", (100,)), TensorSpec("b", "F32", (5, 5), 4096)]
    a, b = np.arange(100, dtype=np.uint8), np.ones((5, 5), np.float32)
    with pytest.raises(RuntimeError, match="stop"), PackedWriter(tmp_path / "m", specs, {"x": "y"}) as writer:
        checksum = writer.write(1, b)
        raise RuntimeError("stop")
    with pytest.raises(ModelFileError):
        PackedFile(tmp_path / "m")
    with PackedWriter(tmp_path / "m", specs, {"x": "y"}, resume=True) as writer:
        assert writer.accept(1, checksum)
        assert not writer.accept(0, 12345)
        writer.write(0, a)
    with PackedWriter(tmp_path / "n", specs, {"x": "y"}) as writer:
        writer.write(0, a)
        writer.write(1, b)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "n").read_bytes()
    with PackedFile(tmp_path / "m") as file:
        assert file.verify("a") and file.verify("b")
        assert file.file.tensors["b"].start % 4096 == 0


def test_a_full_disk_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no room"):
        PackedWriter(tmp_path / "m", [TensorSpec("a", "U8", (1 << 55,))], {})
    assert list(tmp_path.iterdir()) == []


def test_what_float8_bytes_mean() -> None:
    """The corners of the format as its paper's table has them, and that neighbours rise."""
    corners = {
        0x00: 0.0,
        0x01: 2**-9,
        0x07: 7 * 2**-9,
        0x08: 2**-6,
        0x38: 1.0,
        0x3C: 1.5,
        0x7E: 448.0,
        0xB8: -1.0,
        0xFE: -448.0,
    }
    for byte, value in corners.items():
        assert float8.VALUES[byte] == value, hex(byte)
    assert np.isnan(float8.VALUES[[0x7F, 0xFF]]).all()
    assert (np.diff(float8.VALUES[:0x7F]) > 0).all()
    assert np.array_equal(float8.VALUES[0x80:0xFF], -float8.VALUES[:0x7F])


def write_float8(folder: Path, raw: dict, block: tuple[int, int]) -> tuple[Path, Path]:
    """A checkpoint whose matrices of layers are float8 with scales, and the same weights as float32."""
    rng = np.random.default_rng(4)
    plain = folder / "plain"
    with safe_open(write_checkpoint(plain, raw) / "model.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    entries, body = {}, b""

    def add(name: str, dtype: str, array: np.ndarray) -> None:
        nonlocal body
        entries[name] = entry(len(body), len(body) + array.nbytes, dtype, list(array.shape))
        body += array.tobytes()

    for name, values in list(tensors.items()):
        if values.ndim != 2 or "_proj" not in name:
            add(name, "F32", values)
            continue
        bits = rng.integers(0, 0x7F, values.shape).astype(np.uint8) | rng.choice(
            np.array([0, 128], np.uint8), values.shape
        )
        scales = rng.uniform(1e-4, 3e-3, [-(-n // b) for n, b in zip(values.shape, block, strict=True)]).astype(
            np.float32
        )
        add(name, "F8_E4M3", bits)
        add(f"{name}_scale_inv", "F32", scales)
        meant = float8.VALUES[bits]
        for (r, c), scale in np.ndenumerate(scales):
            meant[r * block[0] : (r + 1) * block[0], c * block[1] : (c + 1) * block[1]] *= scale
        tensors[name] = meant
    save_file(tensors, plain / "model.safetensors")
    fp8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block), "activation_scheme": "dynamic"}
    coded = folder / "coded"
    coded.mkdir()
    (coded / "model.safetensors").write_bytes(hostile(entries, body))
    (coded / "config.json").write_text(json.dumps(raw | {"quantization_config": fp8}))
    return coded, plain


@pytest.mark.parametrize("case", ["qwen3-group3", "qwen3_moe", "minimax_m2"])
def test_float8_weights_are_what_their_scales_make_of_them(case: str, tmp_path: Path) -> None:
    """Blocks that rows and columns are no multiple of, as 128 is not of every width."""
    coded, plain = write_float8(tmp_path, GOLDEN_CASES[case], (24, 40))
    for source in (coded, plain):
        convert(source, tmp_path / f"packed-{source.name}", find_recipe("int8"))
    first, second = ((tmp_path / f"packed-{name}" / "model.safetensors").read_bytes() for name in ("coded", "plain"))
    assert first == second
    packed = json.loads((tmp_path / "packed-coded" / "config.json").read_text())
    assert packed["quantization_config"]["quant_method"] == "edge_lfm"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quant_method 'gptq'"),
        ({"quant_method": "edge_lfm"}, "quant_method 'edge_lfm'"),
        ({"quant_method": "fp8"}, "weight_block_size None"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"weight_block_size \[128\]"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, r"weight_block_size \[0, 128\]"),
        ({"quant_method": "fp8", "weight_block_size": [24, 20]}, r"does not fit blocks of \[24, 20\]"),
        ("awq", "quantization_config: 'awq' is not read"),
        (None, "_scale_inv is unknown"),
    ],
)
def test_other_quantized_checkpoints_are_refused(change: Any, reason: str, tmp_path: Path) -> None:
    coded, _ = write_float8(tmp_path, GOLDEN_CASES["qwen3"], (24, 40))
    (coded / "config.json").write_text(json.dumps(GOLDEN_CASES["qwen3"] | {"quantization_config": change}))
    with pytest.raises(EdgeLfmError, match=reason):
        convert(coded, tmp_path / "out", find_recipe("int8"))
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_mlx_quantized_is_refused(tmp_path: Path) -> None:
    raw = GOLDEN_CASES["qwen3"] | {"quantization": {"group_size": 64, "bits": 4}}
    source = write_checkpoint(tmp_path / "in", raw)
    with pytest.raises(UnsupportedModelError, match=r"quantization: .* is not read"):
        convert(source, tmp_path / "out", find_recipe("int8"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_missing_head_says_that_it_may_be_tied(tmp_path: Path) -> None:
    """The weights of a tied model under a config that does not say so, as some converters write it."""
    source = write_checkpoint(tmp_path / "in", GOLDEN_CASES["qwen3"] | {"tie_word_embeddings": True})
    (source / "config.json").write_text(json.dumps(GOLDEN_CASES["qwen3"]), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=r"lm_head\.weight is missing, and .* \(tie_word_embeddings\)"):
        convert(source, tmp_path / "out", find_recipe("int8"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_index_that_lists_what_no_shard_holds(tmp_path: Path) -> None:
    parts = shard(tmp_path / "parts", GOLDEN_CASES["qwen3"], 5)
    index = parts / "model.safetensors.index.json"
    listed = json.loads(index.read_text(encoding="utf-8"))
    listed["weight_map"]["model.norm.extra"] = "a.safetensors"
    index.write_text(json.dumps(listed), encoding="utf-8")
    with pytest.raises(ModelFileError, match=r"a\.safetensors: tensor model\.norm\.extra is missing, though"):
        FolderCheckpoint(parts)


@pytest.mark.parametrize(
    ("case", "change", "named"),
    [
        ("moe", {"architectures": ["Lfm2MoeModel"]}, "Lfm2MoeModel"),
        ("qwen2", {"use_mrope": True}, "use_mrope true"),
        ("qwen3", {"rope_scaling": {"type": "longrope"}, "rope_parameters": None}, "longrope"),
        ("qwen3_moe", {"attention_bias": True}, "attention_bias true"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv 8.0"),
    ],
)
def test_what_is_not_implemented_is_refused_before_anything_is_written(
    case: str, change: dict, named: str, case_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "model.safetensors").symlink_to(case_checkpoints[case] / "model.safetensors")
    (source / "config.json").write_text(json.dumps(GOLDEN_CASES[case] | change), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=named):
        convert(source, tmp_path / "out", find_recipe("balanced"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_tensor_problems_are_named(tmp_path: Path) -> None:
    raw = GOLDEN_CASES["moe"]
    with safe_open(write_checkpoint(tmp_path / "good", raw) / "model.safetensors", "numpy") as file:
        good = {name: file.get_tensor(name) for name in set(file.keys())}
    name = "model.layers.2.feed_forward.experts.3.w2.weight"
    nan = good[name].copy()
    nan[3, 4] = np.nan
    cases = {
        "missing": ({k: v for k, v in good.items() if k != name}, f"{name} is missing"),
        "transposed": (good | {name: np.ascontiguousarray(good[name].T)}, r"\[32, 64\]"),
        "extra": (good | {"model.layers.9.x": np.ones(3, np.float32)}, "model.layers.9.x is unknown"),
        "nan": (good | {name: nan}, f"{name} holds NaN"),
        "integers": (good | {name: np.ones(good[name].shape, np.int64)}, "dtype I64"),
    }
    for case, (tensors, message) in cases.items():
        source = write_checkpoint(tmp_path / case, raw, tensors)
        with pytest.raises(EdgeLfmError, match=message):
            convert(source, tmp_path / f"out-{case}", find_recipe("int4"))
        assert not list(tmp_path.glob(f"out-{case}*"))


@pytest.mark.parametrize("name", ["q_proj.qweight", "q_proj.scales", "q_proj.weight.absmax", "q_proj.weight_packed"])
def test_weights_that_another_tool_has_quantized_are_told_as_that(name: str, tmp_path: Path) -> None:
    """Whatever config.json leaves out: `quantization_config` is lost when configs are copied."""
    folder = write_checkpoint(tmp_path / "in", GOLDEN_CASES["qwen3"])
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"]
    tensors[f"model.layers.0.self_attn.{name}"] = np.zeros((8, 8), np.int32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=rf"another tool has quantized these weights \(.*{name}\)"):
        convert(folder, tmp_path / "out", find_recipe("int8"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("quantization", "what"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, r"quantization: \{'group_size': 64, 'bits': 4\} is not read"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config: quant_method 'awq' is not read"),
    ],
)
def test_how_another_tool_has_quantized_is_told(quantization: dict, what: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "in", GOLDEN_CASES["qwen3"])
    (folder / "config.json").write_text(json.dumps(GOLDEN_CASES["qwen3"] | quantization), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match=what):
        FolderCheckpoint(folder)


def test_weights_in_another_form_are_told(tmp_path: Path) -> None:
    """Files of PyTorch, an adapter, and a clone without its large files."""
    folder = write_checkpoint(tmp_path / "in", GOLDEN_CASES["qwen3"])
    weights = folder / "model.safetensors"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456789\n"
    weights.write_text(pointer, encoding="utf-8")
    with pytest.raises(ModelFileError, match="it is a pointer of Git LFS"):
        FolderCheckpoint(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match=r"has no model\.safetensors, and pytorch_model\.bin is not read"):
        FolderCheckpoint(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelFileError, match=r"is an adapter \(adapter_config\.json\)"):
        FolderCheckpoint(folder)
