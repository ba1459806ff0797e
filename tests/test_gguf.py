"""GGUF in and out: against the package gguf's own reader and decoder, llama.cpp's logits, and hostile files."""

from __future__ import annotations

import json
import logging
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from conftest import DATA, GOLDEN_CASES, goldens_tool

from edge_lfm import Model
from edge_lfm.architectures import olmoe, qwen
from edge_lfm.architectures.lfm2_gguf import GGUF
from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import EdgeLfmError, MissingExtraError, ModelFileError, UnsupportedModelError
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.export.types import TYPES
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.formats.gguf import GgufFile
from edge_lfm.formats.gguf_checkpoint import GgufCheckpoint
from edge_lfm.formats.gguf_tokenizer import gguf_metadata, hub_files
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.kernels.spec.schemes import scheme_like
from edge_lfm.kernels.spec.tiles import definition
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe, recipe_like
from edge_lfm.shape import Attention, Ffn, Layer, Router, Shape
from edge_lfm.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

Kind = gguf.GGMLQuantizationType
TEXTS = (
    "Hello, world!  It's 12345 o'clock.\n\n\tdef f(x):\r\n    return x**2",
    "ÄÖÜ ñ 日本語 한국어 العربية 🙂🇩🇪 e\u0301",
    "<|im_start|>user\nhi<|im_end|>",
    " ",
    "\u00a0\u200b a   b",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """type -> the demo model as a GGUF file."""
    base = tmp_path_factory.mktemp("gguf")
    with open_source(demo_checkpoint()) as source:
        for name in TYPES:
            write_gguf(source, base / f"{name}.gguf", name)
    return {name: base / f"{name}.gguf" for name in TYPES}


@pytest.fixture(scope="module")
def packed_files(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """type -> that file, quantized as it asks for."""
    base = tmp_path_factory.mktemp("gguf-packed")
    for name in ("q8_0", "q4_0"):
        convert(files[name], base / name, None)
    convert(files["f16"], base / "f16", find_recipe("float32"))
    return {name: base / name for name in ("f16", "q8_0", "q4_0")}


# The container


@pytest.mark.parametrize("name", TYPES)
def test_reads_what_the_package_reads(files: dict[str, Path], name: str) -> None:
    theirs = gguf.GGUFReader(files[name])
    with GgufFile(files[name]) as ours:
        keys = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
        assert ours.metadata == keys
        assert list(ours.tensors) == [t.name for t in theirs.tensors]
        for tensor in theirs.tensors:
            mine = ours.tensors[tensor.name]
            assert mine.shape == tuple(int(n) for n in tensor.shape[::-1])
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(mine.shape)
            found = ours.stored(mine)
            if mine.kind == "BF16":
                found = (found.astype(np.uint32) << 16).view(np.float32)
            assert np.array_equal(found.astype(np.float32), expected)


def write_random(path: Path, kinds: dict[str, Any]) -> dict[str, np.ndarray]:
    """A file of random blocks, one tensor of 4 x 512 of each type; their values by the package."""
    rng, expected = np.random.default_rng(3), {}
    writer = gguf.GGUFWriter(path, "lfm2moe")
    for name, kind in kinds.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 64, (4, 512 // block * size), np.uint8)  # small bytes: finite float16 scales
        writer.add_tensor(name, raw, raw_dtype=kind)
        expected[name] = gguf.quants.dequantize(raw, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def test_decodes_every_common_type(tmp_path: Path) -> None:
    names = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
    expected = write_random(tmp_path / "k.gguf", {name.lower(): Kind[name] for name in names})
    with GgufFile(tmp_path / "k.gguf") as file:
        for name, values in expected.items():
            assert np.array_equal(file.stored(file.tensors[name]), values), name
            kind, blocks = file.tensors[name].kind, file.raw(file.tensors[name])
            scheme = scheme_like(kind)
            assert (scheme is not None) == (name in ("q8_0", "q4_0"))
            if scheme is not None:
                exact = definition(scheme).from_ggml(blocks, kind, 4, 512)
                assert np.array_equal(exact.values(), values), name
                assert np.array_equal(definition(scheme).to_ggml(exact, kind).reshape(-1), blocks), name


# In


def test_a_float_file_quantizes_like_its_checkpoint(
    files: dict[str, Path], demo: dict[str, Path], tmp_path: Path
) -> None:
    convert(files["f32"], tmp_path / "f", find_recipe("balanced"))
    with PackedModel(tmp_path / "f") as ours, PackedModel(demo["balanced"]) as direct:
        assert ours.tensors == direct.tensors
        for name in ours.tensors:
            assert np.array_equal(ours.bytes_of(name), direct.bytes_of(name)), name
    assert Tokenizer(tmp_path / "f").bos == Tokenizer(demo["balanced"]).bos


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_integers_are_not_rounded_twice(files: dict[str, Path], packed_files: dict[str, Path], name: str) -> None:
    """Every weight of the packed model is the one that the package decodes."""
    report = json.loads((packed_files[name] / "quantization_report.json").read_text())
    assert set(report["relative_rmse_by_class"].values()) == {0.0}
    with GgufCheckpoint(files[name]) as checkpoint, open_source(packed_files[name]) as packed:
        for tensor in checkpoint.names:
            assert np.array_equal(packed.values(tensor), checkpoint.read(tensor)), tensor


def test_k_quants_are_taken_with_the_nearest_schemes(tmp_path: Path, files: dict[str, Path]) -> None:
    """A file whose matrices are Q4_K and Q6_K, as `llama-quantize Q4_K_M` makes them, in a shape of 256 columns."""
    source, path = gguf.GGUFReader(files["f32"]), tmp_path / "k.gguf"
    writer = gguf.GGUFWriter(path, "lfm2moe")
    for key, field in source.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
            )
    rng = np.random.default_rng(5)
    for tensor in source.tensors:
        shape = tuple(int(n) for n in tensor.shape[::-1])
        if len(shape) < 2 or shape[-1] % 256 or "ffn_gate_inp" in tensor.name or "conv.conv" in tensor.name:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        kind = Kind.Q6_K if tensor.name == "token_embd.weight" else Kind.Q4_K
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (*shape[:-1], shape[-1] // block, size), np.uint8)
        for at in (208,) if kind == Kind.Q6_K else (0, 2):  # float16 scales
            raw[..., at : at + 2] = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
        writer.add_tensor(tensor.name, raw.reshape(*shape[:-1], -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = convert(path, tmp_path / "out", None)
    assert report.recipe["schemes"]["embedding"] == "int8_g32"
    assert 0 < report.relative_rmse_by_class["embedding"] < 0.01
    with Model.load(tmp_path / "out") as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


def test_most_of_a_class_decides(files: dict[str, Path]) -> None:
    """llama.cpp's Q4_K_M has Q6_K in some matrices of a class, which must not double the whole class."""
    with GgufCheckpoint(files["f16"]) as checkpoint:
        tensors = plan_tensors(checkpoint.describe(), find_recipe("balanced").schemes)
        weights = CheckpointWeights(checkpoint, checkpoint.describe(), tensors)

        def scheme_of(mixed: Callable[[str], str]) -> str:
            weights.kind = mixed  # type: ignore[method-assign]
            return recipe_like(weights, tensors).schemes.by_class["experts"]

        assert scheme_of(lambda name: "Q6_K" if ".w2." in name else "Q4_K") == "codebook4_g32"
        assert scheme_of(lambda name: "Q4_K" if ".w2." in name else "Q6_K") == "int8_g32"
        assert scheme_of(lambda name: "Q5_K") == "int8_g32"
        assert scheme_of(lambda name: "Q4_0") == "int4_g32"
        assert scheme_of(lambda name: "Q8_0" if ".w2." in name else "Q4_0") == "int4_g32"
        assert scheme_of(lambda name: "BF16") == "codebook4_g32"


def test_the_tokenizer_survives(packed_files: dict[str, Path]) -> None:
    ours, theirs = Tokenizer(packed_files["q8_0"]), Tokenizer(demo_checkpoint())
    for text in TEXTS:
        for special in (False, True):
            ids = theirs.encode(text, bos=True, special=special)
            assert ours.encode(text, bos=True, special=special) == ids
            assert ours.decode(ids, special=True) == theirs.decode(ids, special=True)
    assert ours.size == theirs.size
    assert ours.spellings == theirs.spellings
    template = "chat_template.jinja"
    assert (packed_files["q8_0"] / template).read_text() == (demo_checkpoint() / template).read_text()


def test_the_real_tokenizer_survives(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "lfm2_tokenizer"
    source = {f.name: f.read_bytes() for f in folder.iterdir() if f.name in ("tokenizer.json", "tokenizer_config.json")}
    metadata = gguf_metadata(source, 65536, GGUF, "here")
    assert len(metadata["tokenizer.ggml.tokens"]) == 65536
    for name, content in hub_files(metadata, GGUF, "here").items():
        (tmp_path / name).write_bytes(content)
    ours, theirs = Tokenizer(tmp_path), Tokenizer(folder)
    for text in (*TEXTS, *(path.read_text("utf-8")[:20000] for path in (shared_data / "eval").glob("*.txt"))):
        assert ours.encode(text, bos=True, special=True) == theirs.encode(text, bos=True, special=True)
    assert (ours.size, ours.bos, ours.eos_ids) == (theirs.size, theirs.bos, theirs.eos_ids)


# Other families: names by the package's own table of them

OTHERS = {
    "qwen2": "qwen2",
    "qwen2-tied-group3": "qwen2",
    "qwen3-group3": "qwen3",
    "qwen3_moe-128-experts": "qwen3moe",
    "olmoe": "olmoe",
    "afmoe": "afmoe",
    "afmoe-two-shared-group3": "afmoe",
    "minimax_m2": "minimax-m2",
    "hunyuan": "hunyuan-moe",
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_families_out_and_in(case: str, case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path, folder = tmp_path / "m.gguf", case_checkpoints[case]
    with open_source(folder) as source:
        write_gguf(source, path, "f32")
        shape, layers = source.shape, len(source.shape.layers)
    reader = gguf.GGUFReader(path)
    written = {tensor.name: tensor for tensor in reader.tensors}
    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == OTHERS[case])
    assert reader.fields["general.architecture"].contents() == OTHERS[case]
    names = gguf.get_tensor_name_map(architecture, layers)
    with FolderCheckpoint(folder) as checkpoint:
        experts: dict[str, list[np.ndarray]] = {}
        for name in sorted(checkpoint.names, key=_by_number):
            known = re.sub(r"\.experts\.\d+\.", ".experts.", name)
            known = re.sub(r"expert_bias$", "expert_bias.bias", known)  # as llama.cpp's converter does first
            known = re.sub(r"e_score_correction_bias$", "e_score_correction.bias", known)
            theirs = names.get_name(known, try_suffixes=(".weight", ".bias"))
            assert theirs is not None, name
            experts.setdefault(theirs, []).append(checkpoint.read(name))
        assert experts.keys() == written.keys()
        for name, values in experts.items():
            expected = np.stack(values) if "_exps" in name else values[0]
            assert np.array_equal(written[name].data, expected), name
    with GgufCheckpoint(path) as again:
        # GGUF keeps float32, and its end tokens with the tokenizer, which these checkpoints have none of.
        assert again.describe() == replace(_in_float32(shape), eos=())
        weights = CheckpointWeights(again, shape, plan_tensors(shape, find_recipe("float32").schemes))
        direct = _direct(folder)
        for tensor in plan_tensors(shape, find_recipe("float32").schemes):
            for part in tensor.sources:
                assert np.array_equal(weights(part.name), direct(part.name)), part.name


def _in_float32(shape: Shape) -> Shape:
    """A shape with its numbers as GGUF keeps them."""
    return replace(shape, eps=float(np.float32(shape.eps)), layers=tuple(map(_layer_in_float32, shape.layers)))


def _layer_in_float32(layer: Layer) -> Layer:
    operator, ffn = layer.operator, layer.ffn
    if isinstance(operator, Attention) and operator.rope is not None:
        rope = replace(operator.rope, theta=float(np.float32(operator.rope.theta)))
        operator = replace(operator, rope=rope)
    if ffn.router is not None:
        ffn = replace(ffn, router=replace(ffn.router, scale=float(np.float32(ffn.router.scale))))
    return replace(layer, operator=operator, ffn=ffn)


def _by_number(name: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", name)]


def _direct(folder: Path) -> CheckpointWeights:
    checkpoint = FolderCheckpoint(folder)
    shape = checkpoint.describe()
    return CheckpointWeights(checkpoint, shape, plan_tensors(shape, find_recipe("float32").schemes))


UNREAD_KEYS = ("head_dim", "moe_intermediate_size", "norm_topk_prob")
"""What transformers 5.24 does not take from GGUF files, though llama.cpp writes and reads it, but for the last."""


@pytest.mark.parametrize("case", [case for case in OTHERS if case != "olmoe"])
@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_the_file_as_the_checkpoint(
    case: str, case_checkpoints: dict[str, Path], golden_logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Another reader of keys and names: the same logits, bit for bit."""
    why = "pip install 'edge-lfm[golden]' accelerate for it"
    transformers, torch = (pytest.importorskip(package, reason=why) for package in ("transformers", "torch"))
    with open_source(case_checkpoints[case]) as source:
        write_gguf(source, tmp_path / "m.gguf", "f32")
    settings = {key: GOLDEN_CASES[case][key] for key in UNREAD_KEYS if key in GOLDEN_CASES[case]}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, **settings
    )
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(goldens_tool.token_ids(case))[None]).logits[0].numpy()
    assert np.array_equal(found, golden_logits[case])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("qwen3_moe-not-normalized", "norm_topk_prob is false"),
        ("qwen2-yarn", "rope_type is yarn"),
        ("qwen3_moe-dense-between", "some layers have experts"),
        ("olmoe-normalized-group3", "norm_topk_prob is true"),
        ("afmoe-tied-full-first", "mup_enabled is false"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    case: str, reason: str, case_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with open_source(case_checkpoints[case]) as source, pytest.raises(UnsupportedModelError, match=reason):
        write_gguf(source, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


SPELLINGS = {"qwen2": qwen.GGUF, "olmo": olmoe.GGUF}


@pytest.mark.parametrize("pre", SPELLINGS)
def test_a_tokenizer_that_composes_characters_survives(pre: str, tmp_path: Path) -> None:
    """The demo's vocabulary, split and composed as in these families' files, by the package tokenizers."""
    spelling = SPELLINGS[pre]
    theirs = tokenizers.Tokenizer.from_file(str(demo_checkpoint() / "tokenizer.json"))
    theirs.normalizer = tokenizers.normalizers.NFC()
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "olmo")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(spelling.split[0]), "isolated")
    theirs.pre_tokenizer = level if pre == "olmo" else tokenizers.pre_tokenizers.Sequence([split, level])
    settings = json.dumps({"eos_token": "<|im_end|>"}).encode()
    files = {"tokenizer.json": theirs.to_str().encode(), "tokenizer_config.json": settings}
    metadata = gguf_metadata(files, 4096, spelling, "here")
    assert metadata["tokenizer.ggml.pre"] == pre
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    again = hub_files(metadata, spelling, "here")
    ours = tokenizers.Tokenizer.from_str(again["tokenizer.json"].decode())
    for text in (*TEXTS, "1234567 12 1", "cafe\u0301 don't WE'LL"):
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids
    assert not json.loads(again["tokenizer_config.json"])["add_bos_token"]
    theirs.normalizer = tokenizers.normalizers.Lowercase()
    with pytest.raises(UnsupportedModelError, match="Lowercase"):
        gguf_metadata(files | {"tokenizer.json": theirs.to_str().encode()}, 4096, spelling, "here")


# Beside llama.cpp (tools/make_llama_goldens.py)


@pytest.fixture(scope="module")
def llama_goldens() -> dict[str, np.ndarray]:
    with np.load(DATA / "llama_goldens.npz") as arrays:
        return dict(arrays)


class _Margins(ReferenceModel):
    """Notes by how much the last of a token's chosen experts was ahead of the next, in every layer."""

    def _experts(self, at: str, ffn: Ffn, router: Router, x: F32) -> F32:
        scores = 1 / (1 + np.exp(-ref.multiply(self._f32(f"{at}.gate.weight"), x))) + self._f32(f"{at}.expert_bias")
        best, k = -np.sort(-scores, axis=1), router.top_k
        self.found.append(best[:, k - 1] - best[:, k])
        return super()._experts(at, ffn, router, x)

    def of(self, ids: list[int]) -> np.ndarray:
        """[tokens]: the least of all layers."""
        self.found: list[np.ndarray] = []
        self.logits(np.array(ids))
        return np.min(self.found, axis=0)


def test_llama_cpp_reads_the_file_as_we_do(
    packed_files: dict[str, Path], llama_goldens: dict[str, np.ndarray], demo_goldens: dict[str, dict]
) -> None:
    """F16 weights: the same greedy tokens, and logits within what a float16 KV cache and float16 goldens leave.

    Rows from a near tie of two experts on are left out, wherever in the prompt it is: it may fall the other way there.
    """
    compared = 0
    with Model.load(packed_files["f16"]) as model, PackedModel(packed_files["f16"]) as packed:
        margins = _Margins(packed.shape, UnpackedWeights(packed, integers=False))
        for name, prompt in demo_goldens.items():
            ids, greedy = prompt["prompt_ids"], llama_goldens[f"f16.{name}.greedy"]
            logits = model.logits([*ids, *greedy.tolist()])
            theirs = llama_goldens[f"f16.{name}.logits"]
            ours = logits[len(ids) - len(theirs) : len(ids)]
            clear = np.logical_and.accumulate(margins.of(ids) > 2e-5)[-len(theirs) :]
            compared += clear.sum()
            far = np.abs(ours - theirs)[clear].max(initial=0)
            assert far < 0.02, name  # |logit| up to 20: float16 keeps 0.008 of them
            assert logits[len(ids) - 1 : -1].argmax(1).tolist() == greedy.tolist(), name
    assert compared > 0.9 * sum(len(llama_goldens[f"f16.{name}.logits"]) for name in demo_goldens)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Mean KL divergence of softmax(q) from softmax(p), nats."""
    p, q = (x - np.logaddexp.reduce(x.astype(np.float64), axis=1, keepdims=True) for x in (p, q))
    return float((np.exp(p) * (p - q)).sum(1).mean())


@pytest.mark.parametrize(("name", "share"), [("q8_0", 2.0), ("q4_0", 0.1)])
def test_llama_cpp_computes_the_same_from_the_same_integers(
    packed_files: dict[str, Path],
    llama_goldens: dict[str, np.ndarray],
    demo_goldens: dict[str, dict],
    name: str,
    share: float,
) -> None:
    """Far nearer to llama.cpp on the same blocks of Q4_0 than to the model that they were rounded from.

    What is left is that both round activations to 8 bits, each in its way. That is most of what Q8_0 loses, too:
    between two that round so, the distance is up to twice that from either to the model.
    """
    rounded, original = [], []
    with Model.load(packed_files[name]) as model, Model.load(packed_files["f16"]) as exact:
        for prompt_name, prompt in demo_goldens.items():
            theirs = llama_goldens[f"{name}.{prompt_name}.logits"].astype(np.float32)
            ours, floats = (m.logits(prompt["prompt_ids"])[-len(theirs) :] for m in (model, exact))
            rounded.append(divergence(theirs, ours))
            original.append(divergence(floats, ours))
    logging.info("%s: %.2g from llama.cpp, %.2g from the rounding", name, np.mean(rounded), np.mean(original))
    assert np.mean(rounded) < share * np.mean(original), (rounded, original)


def test_llama_cpp_itself(files: dict[str, Path], demo_goldens: dict[str, dict]) -> None:
    llama = pytest.importorskip(
        "llama_cpp", reason="make llama-goldens builds llama.cpp; its stored logits are compared above"
    )
    model = llama.Llama(str(files["f16"]), n_ctx=512, logits_all=True, verbose=False, n_threads=1)
    prompt = demo_goldens["json"]
    assert model.tokenize(prompt["prompt"].encode(), add_bos=False, special=True) == prompt["prompt_ids"]
    model.eval(prompt["prompt_ids"])
    for expected in prompt["greedy_ids"]:
        assert int(model.scores[model.n_tokens - 1].argmax()) == expected
        model.eval([expected])


# Out and in again


@pytest.mark.parametrize(("recipe", "types"), [("int4", {"Q4_0", "Q8_0"}), ("int8", {"Q8_0"})])
def test_a_packed_model_comes_back_bit_for_bit(
    demo: dict[str, Path], tmp_path: Path, recipe: str, types: set[str]
) -> None:
    with open_source(demo[recipe]) as source:
        report = write_gguf(source, tmp_path / "m.gguf")
    assert {t for kind, t in report.types.items() if kind not in ("float", "router")} == types
    assert set(report.relative_rmse.values()) == {0.0}
    convert(tmp_path / "m.gguf", tmp_path / "again", None)
    with PackedModel(demo[recipe]) as before, PackedModel(tmp_path / "again") as after:
        for name in before.tensors:
            assert np.array_equal(before.bytes_of(name), after.bytes_of(name)), name


def test_a_codebook_is_rounded_once_and_says_so(demo: dict[str, Path], tmp_path: Path) -> None:
    with open_source(demo["balanced"]) as source:
        report = write_gguf(source, tmp_path / "m.gguf")
        assert report.types["experts"] == "Q8_0"
        with GgufCheckpoint(tmp_path / "m.gguf") as file:
            name = "model.layers.3.feed_forward.experts.5.w2.weight"
            lost = file.read(name) - source.values(name)
            relative = np.linalg.norm(lost) / np.linalg.norm(source.values(name))
    assert relative == pytest.approx(report.relative_rmse["experts"], rel=0.2)
    assert report.relative_rmse["experts"] < 0.01


# Hostile files


def header(tensors: int = 0, pairs: bytes = b"", count: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, count) + pairs


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def number(key: str, kind: int, form: str, value: float) -> bytes:
    return pair(f"qwen2.{key}", kind, struct.pack(f"<{form}", value))


LAST = 1 << 60
ARCHITECTURE = pair("general.architecture", 8, text("lfm2moe"))
QWEN = pair("general.architecture", 8, text("qwen2"))
KV_HEADS = pair("lfm2moe.attention.head_count_kv", 9, struct.pack("<IQii", 5, 2, 0, 1))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "short": (b"GGUF", "4 bytes"),
    "magic": (header(magic=b"GGML"), "begin with GGUF"),
    "version": (header(version=9), "version 9"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensor count": (header(tensors=LAST), "tensors"),
    "key count": (header(count=LAST), "keys"),
    "string length": (header(count=1, pairs=struct.pack("<Q", LAST) + bytes(64)), "characters"),
    "array of texts": (header(count=1, pairs=pair("k", 9, struct.pack("<IQ", 8, LAST)) + bytes(64)), "texts"),
    "array of numbers": (header(count=1, pairs=pair("k", 9, struct.pack("<IQ", 10, LAST)) + bytes(64)), "numbers"),
    "array of arrays": (header(count=1, pairs=pair("k", 9, struct.pack("<IQ", 9, 1)) + bytes(64)), "type 9"),
    "value type": (header(count=1, pairs=pair("k", 77, bytes(64))), "type 77"),
    "not UTF-8": (header(count=1, pairs=struct.pack("<Q", 2) + b"\xff\xfe" + bytes(64)), "UTF-8"),
    "twice": (header(count=2, pairs=pair("k", 0, b"\1") * 2), "twice"),
    "alignment": (header(count=1, pairs=pair("general.alignment", 4, struct.pack("<I", 3)) + bytes(64)), "alignment"),
    "dimensions": (header(tensors=1, pairs=entry("t", (1,) * 5, 0, 0) + bytes(64)), "5 dimensions"),
    "no items": (header(tensors=1, pairs=entry("t", (0,), 0, 0) + bytes(64)), "shape"),
    "overflow": (header(tensors=1, pairs=entry("t", (1 << 63, 1 << 63), 0, 0) + bytes(64)), "truncated"),
    "offset": (header(tensors=1, pairs=entry("t", (8,), 0, 1 << 62) + bytes(64)), "truncated"),
    "unaligned": (header(tensors=1, pairs=entry("t", (8,), 0, 5) + bytes(128)), "at"),
    "tensor type": (header(tensors=1, pairs=entry("t", (8,), 999, 0) + bytes(64)), "unknown type 999"),
    "broken block": (header(tensors=1, pairs=entry("t", (33,), 8, 0) + bytes(64)), "shape"),
    "tensor twice": (header(tensors=2, pairs=entry("t", (8,), 0, 0) * 2 + bytes(128)), "twice"),
    "a part": (header(count=1, pairs=pair("split.count", 2, struct.pack("<H", 3)) + bytes(64)), "one part of several"),
    "no architecture": (header(count=1, pairs=pair("k", 0, b"\1")), "architecture None"),
    "another": (header(count=1, pairs=pair("general.architecture", 8, text("llama"))), "'llama'"),
    "heads": (header(count=1, pairs=ARCHITECTURE), "head_count_kv"),
    "no theta": (header(count=2, pairs=ARCHITECTURE + KV_HEADS), "lfm2moe.rope.freq_base is missing"),
    "no theta either": (header(count=1, pairs=QWEN), "qwen2.rope.freq_base is missing"),
    "no eps": (header(count=2, pairs=QWEN + number("rope.freq_base", 6, "f", 1e6)), "rms_epsilon is missing"),
    "part of a head": (
        header(
            count=5,
            pairs=QWEN
            + number("rope.freq_base", 6, "f", 1e6)
            + number("attention.layer_norm_rms_epsilon", 6, "f", 1e-6)
            + number("attention.key_length", 4, "I", 128)
            + number("rope.dimension_count", 4, "I", 64),
        ),
        "qwen2.rope.dimension_count 64",
    ),
    "scaled positions": (header(count=2, pairs=QWEN + pair("qwen2.rope.scaling.type", 8, text("yarn"))), "'yarn'"),
    "clipped": (
        header(
            count=2,
            pairs=pair("general.architecture", 8, text("olmoe"))
            + pair("olmoe.attention.clamp_kqv", 6, struct.pack("<f", 8)),
        ),
        "clamp_kqv",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, reason = HOSTILE[case]
    (tmp_path / "evil.gguf").write_bytes(content)
    assert main(["quantize", str(tmp_path / "evil.gguf"), "-o", str(tmp_path / "out")]) == 3
    message = capsys.readouterr().err
    assert reason in message and "evil.gguf" in message and message.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["evil.gguf"]


def test_a_truncated_file_is_refused_wherever_it_ends(files: dict[str, Path], tmp_path: Path) -> None:
    whole = files["q4_0"].read_bytes()
    path = tmp_path / "cut.gguf"
    for end in [*range(0, 2000, 7), *np.linspace(2000, len(whole) - 1, 40).astype(int).tolist()]:
        path.write_bytes(whole[:end])
        with pytest.raises(ModelFileError):
            open_checkpoint(path)


def test_flipped_bytes_of_the_header_never_surprise(files: dict[str, Path], tmp_path: Path) -> None:
    whole, rng, path = bytearray(files["q4_0"].read_bytes()), np.random.default_rng(1), tmp_path / "flipped.gguf"
    for _ in range(300):
        at, value = int(rng.integers(0, 4000)), int(rng.integers(0, 256))
        kept, whole[at] = whole[at], value
        path.write_bytes(whole)
        whole[at] = kept
        try:
            with open_checkpoint(path) as checkpoint:
                checkpoint.describe()
        except EdgeLfmError as error:
            assert "flipped.gguf" in str(error)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m | {"tokenizer.ggml.pre": "gpt-9"}, "gpt-9"),
        (lambda m: m | {"tokenizer.ggml.model": "spm"}, "spm"),
        (lambda m: {k: v for k, v in m.items() if k != "tokenizer.ggml.merges"}, "incomplete"),
        (lambda m: m | {"tokenizer.ggml.token_type": [1]}, "incomplete"),
    ],
)
def test_another_tokenizer_is_refused(edit: Callable[[dict], dict], reason: str, files: dict[str, Path]) -> None:
    with GgufFile(files["f16"]) as file, pytest.raises(UnsupportedModelError, match=reason):
        hub_files(edit(file.metadata), GGUF, "here")


# The verb


def test_export_from_the_command_line(
    demo: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "m.gguf"
    command = ["export", str(demo["int4"]), "--format", "gguf", "-o", str(output)]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["types"]["experts"] == "Q4_0"
    assert main(command) == 3
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force", "--type", "q9"]) == 2
    assert "q8_0" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert "Q4_0, relative error 0.0000" in capsys.readouterr().out
    assert [p.name for p in output.parent.iterdir()] == ["m.gguf"]


def test_inspect_tells_how_a_file_is_quantized(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(files["q4_0"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stored"]["experts"] == {"Q4_0": 6 * 16 * 3} and found["stored"]["embedding"] == {"Q8_0": 1}
    assert found["recipe"]["schemes"]["experts"] == "int4_g32"
    assert main(["inspect", str(demo_checkpoint())]) == 0
    shown = capsys.readouterr().out
    assert "288 x BF16" in shown and "recipe without --recipe: balanced" in shown


@pytest.mark.parametrize("form", ["gguf", "onnx"])
def test_a_write_that_fails_on_the_way(form: str, demo: dict[str, Path], tmp_path: Path) -> None:
    """No file may grow beyond a megabyte: the kernel refuses the rest, as on a full disk."""
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "export", str(demo["int4"]), "--format", form]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    done = subprocess.run([*command, "-o", str(tmp_path / "m")], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    done = subprocess.run([*command, "-o", str(tmp_path / "file" / "m")], capture_output=True, text=True)
    assert done.returncode == 3 and "cannot be made" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_failed_write_leaves_nothing(demo: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", no_room)
    with open_source(demo["int4"]) as source, pytest.raises(EdgeLfmError, match="no room left"):
        write_gguf(source, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_without_the_package(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"\[gguf\]"):
        open_checkpoint(files["f16"])


def test_a_shape_that_llama_cpp_cannot_do(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    refused = 0
    for case, folder in case_checkpoints.items():
        raw = json.loads((folder / "config.json").read_text())
        if not raw["model_type"].startswith("lfm2"):
            continue
        with open_source(folder) as source:
            if raw.get("conv_bias") or raw.get("norm_topk_prob") is False or raw.get("routed_scaling_factor", 1) != 1:
                with pytest.raises(UnsupportedModelError, match=r"llama\.cpp|GGUF"):
                    write_gguf(source, tmp_path / f"{case}.gguf")
                refused += 1
    assert refused
