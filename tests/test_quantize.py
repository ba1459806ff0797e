"""The quantizer: rounding against the anchors of the literature, reports, determinism, and every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN_CASES, goldens_tool, write_checkpoint
from numpy.typing import NDArray

from edge_lfm import Model
from edge_lfm.architectures import read_shape
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.feeds import Feed
from edge_lfm.errors import EdgeLfmError, ModelFileError, OutputError, UnsupportedModelError, UsageError
from edge_lfm.formats.file_list import write_list
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.plan import TENSOR_CLASSES, Schemes, plan_tensors
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.quantize.convert import convert, plan_conversion
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import Recipe, find_recipe, recipes_for
from edge_lfm.quantize.recipe_files import recipe_names
from edge_lfm.quantize.synth import synthesize


def test_weights_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    raw = GOLDEN_CASES["dense"]
    shape = read_shape(raw)
    tensors = {
        s.name: goldens_tool.random_weights(s.name, s.shape)
        for p in plan_tensors(shape, find_recipe("int4").schemes)
        for s in p.sources
    }
    tensors["model.layers.1.feed_forward.w3.weight"][0, 0] = 1e8
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.feed_forward\.w3"):
        convert(write_checkpoint(tmp_path / "in", raw, tensors), tmp_path / "out", find_recipe("int4"))
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("scheme", recipe_names())
def test_the_report_tells_what_is_in_the_file(scheme: str, tmp_path: Path) -> None:
    done: list[int] = []
    totals: list[int] = []

    def progress(total: int):
        totals.append(total)
        return done.append

    report = convert(demo_checkpoint(), tmp_path / "m", find_recipe(scheme), progress=progress)
    stored = json.loads((tmp_path / "m/quantization_report.json").read_text(encoding="utf-8"))
    size = (tmp_path / "m/model.safetensors").stat().st_size
    assert report.size.file_bytes == stored["size"]["file_bytes"] == size
    assert sum(done) == totals[0] <= size
    assert report.size.parameters == 8_290_784
    assert plan_conversion(demo_checkpoint(), find_recipe(scheme)) == report.size
    with PackedModel(tmp_path / "m") as packed, PackedModel(tmp_path / "m") as same:
        exact_folder = tmp_path / "exact"
        convert(demo_checkpoint(), exact_folder, find_recipe("float32"))
        with PackedModel(exact_folder) as exact:
            names = [f"model.layers.3.feed_forward.experts.5.{w}.weight" for w in ("w1", "w3", "w2")]
            a, b = (
                np.concatenate([UnpackedWeights(model, integers=False)(name).ravel() for name in names])
                for model in (exact, packed)
            )
        error = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert error == pytest.approx(report.relative_rmse_by_class["experts"], rel=0.1, abs=1e-9)
        assert same.schemes.recipe == scheme


def test_the_bytes_are_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(demo_checkpoint(), tmp_path / name, find_recipe("int4"))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_a_checkpoint_without_tokenizer_is_packed_with_a_warning(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in", GOLDEN_CASES["dense"])
    report = convert(source, tmp_path / "out", find_recipe("int8"))
    assert any("tokenizer.json is missing" in w for w in report.warnings)
    assert (tmp_path / "out/config.json").exists()


CARD_PARAMETERS = {
    "lfm2-24b-a2b": 23_843_661_440,
    "lfm2-350m": 354_483_968,
    "lfm2-700m": 742_489_344,
    "lfm2-1.2b": 1_170_340_608,
    "lfm2-2.6b": 2_569_272_320,
    "lfm2.5-24b-a2b": 23_971_587_712,
    "lfm2.5-1.2b": 1_170_340_608,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "r1-distill-qwen-1.5b": 1_777_088_000,
    "r1-distill-qwen-7b": 7_615_616_512,
    "r1-distill-qwen-14b": 14_770_033_664,
    "r1-distill-qwen-32b": 32_763_876_352,
    "lfm3-1.7b": 1_728_801_536,
    "olmoe-1b-7b": 6_919_161_856,
    "trinity-nano": 6_120_003_328,
    "minimax-m2": 228_689_764_864,
    "deepseek-v3": 671_026_419_200,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}


@pytest.mark.parametrize("name", CARD_PARAMETERS)
def test_published_shapes_have_the_parameters_of_their_cards(name: str) -> None:
    shape = read_shape(family_config(name))
    sizes = measure_sizes(shape, plan_tensors(shape, find_recipe("int4").schemes))
    assert sizes.parameters == CARD_PARAMETERS[name]
    if name == "lfm2-24b-a2b":
        assert sizes.active_parameters == 2_326_881_920


def test_synth_is_a_model_with_blocks_of_their_own(tmp_path: Path) -> None:
    raw = family_config("lfm2-8b-a1b") | {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention"] * 2,
        "intermediate_size": 512,
        "moe_intermediate_size": 128,
        "vocab_size": 512,
    }
    for scheme in ("int4", "int8", "float32"):
        synthesize(raw, tmp_path / scheme, find_recipe(scheme))
        with PackedModel(tmp_path / scheme) as model:
            assert model.verify() == []
            blocks = {model.bytes_of(n).tobytes() for n, p in model.tensors.items() if p.kind == "experts"}
            assert len(blocks) == 2 * 32
            w = UnpackedWeights(model, integers=False)("model.layers.2.feed_forward.experts.7.w1.weight")
            assert w.std() * 16 == pytest.approx(1, rel=0.05)
            assert abs(w.mean()) < 0.01


def test_tokens_of_a_random_model_choose_many_experts(tmp_path: Path) -> None:
    """Attention gives all tokens nearly the same; what they choose must still be their own, or caches look too good."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512}
    depth = {"num_hidden_layers": 24, "num_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 128}
    synthesize(family_config("qwen3-30b-a3b") | sizes | depth, tmp_path / "model", find_recipe("balanced"))
    fewest = 64

    def watch(_layer: int, chosen: NDArray[np.int64]) -> None:
        nonlocal fewest
        fewest = min(fewest, len(np.unique(chosen)))

    with Model.load(tmp_path / "model") as model:
        ids = np.random.default_rng(0).integers(0, 512, 64).tolist()
        model.backend.run([Feed(model.backend.new_state(64), ids)], routing=watch)
    assert fewest > 0.85 * 64  # 63 of 64 where all are as likely


def test_refusals_of_the_output(tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(demo_checkpoint(), source)
    before = sorted((p.name, p.stat().st_size) for p in source.iterdir())
    recipe = find_recipe("int8")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/precious.txt").write_text("x", encoding="utf-8")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for output, message in (
        (source, "in each other"),
        (source / "out", "in each other"),
        (tmp_path, "in each other"),
        (tmp_path / "taken", "exists"),
        (tmp_path / "file", "exists"),
    ):
        with pytest.raises(OutputError, match=message):
            convert(source, output, recipe)
    for output in (tmp_path / "taken", tmp_path / "file"):
        with pytest.raises(OutputError, match="not a model folder"):
            convert(source, output, recipe, force=True)
    assert (tmp_path / "taken/precious.txt").exists()
    convert(source, tmp_path / "out", recipe)
    with pytest.raises(OutputError, match="--force"):
        convert(source, tmp_path / "out", recipe)
    convert(source, tmp_path / "out", recipe, force=True)
    assert sorted((p.name, p.stat().st_size) for p in source.iterdir()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "in", "out", "taken"]
    with pytest.raises(UsageError, match="int5"):
        find_recipe("int5")


RECIPES = {
    "not TOML": ("[schemes", "cannot be read"),
    "unknown class": ('[schemes]\nexpert = "int8_g32"', "no 'expert'"),
    "missing class": ('[schemes]\nexperts = "int8_g32"', "class ffn has no scheme"),
    "unknown scheme": ('[schemes]\nexperts = "int3"', "unknown scheme 'int3'"),
    "unknown scheme of w2": (
        "[schemes]\n" + "\n".join(f'{kind} = "int8_g32"' for kind in TENSOR_CLASSES) + '\nexperts_down = "int2"',
        "class experts_down has the unknown scheme 'int2'",
    ),
    "unknown key": ("nonsense = 1", "no 'nonsense'"),
    "not a table": ("schemes = 3", "must be tables"),
    "unknown rounding": ("[rounding]\nmagic = true", "no 'magic'"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_refused_by_name(name: str, tmp_path: Path) -> None:
    text, message = RECIPES[name]
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        find_recipe(str(path))


@pytest.mark.parametrize("key", ["experts_down", "experts_up"])
def test_a_packed_model_with_an_unknown_scheme_of_w2_is_refused(key: str, tmp_path: Path) -> None:
    convert(demo_checkpoint(), tmp_path / "m", find_recipe("compact"))
    config = tmp_path / "m/config.json"
    raw = json.loads(config.read_text(encoding="utf-8"))
    raw["quantization_config"]["schemes"][key] = "int2"
    config.write_text(json.dumps(raw), encoding="utf-8")
    write_list(tmp_path / "m")
    with pytest.raises(ModelFileError, match="has the schemes"):
        PackedModel(tmp_path / "m")


def test_w2_shrinks_alone(tmp_path: Path) -> None:
    """w1 and w3 are the bytes of a recipe with one scheme for the whole expert, w2 those of another one's."""
    kinds = dict.fromkeys(TENSOR_CLASSES, "int8_g32")
    parts = {"both": {"experts": "code3_g32", "experts_down": "int4_g32"}}
    parts |= {name: {"experts": name} for name in ("code3_g32", "int4_g32")}
    blocks = {}
    for name, own in parts.items():
        convert(demo_checkpoint(), tmp_path / name, Recipe(name, "", Schemes(name, kinds | own)))
        with PackedModel(tmp_path / name) as model:
            tensor = model.tensors["model.layers.3.feed_forward.experts.5"]
            stored = np.split(model.bytes_of(tensor.name).copy(), [tensor.matrices[0].nbytes])
            assert [len(part) for part in stored] == [matrix.nbytes for matrix in tensor.matrices]
            blocks[name] = [part.tobytes() for part in stored]
    assert blocks["both"] == [blocks["code3_g32"][0], blocks["int4_g32"][1]]


def test_a_scheme_that_cannot_hold_a_class_is_refused(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """pair5_g32 stores 64 columns together; the case's hidden size is 96."""
    kinds = dict.fromkeys(TENSOR_CLASSES, "int8_g32") | {"attention": "pair5_g32"}
    case = next(case for case, raw in GOLDEN_CASES.items() if raw["hidden_size"] % 64)
    with pytest.raises(UnsupportedModelError, match="pair5_g32 stores 64 together"):
        convert(case_checkpoints[case], tmp_path / "m", Recipe("mine", "", Schemes("mine", kinds)))
    assert not (tmp_path / "m").exists()
    narrow, wide = (read_shape(GOLDEN_CASES[case]) for case in ("moe-group3-conv-bias", "moe"))
    assert set(recipes_for(wide)) - set(recipes_for(narrow)) == {"tiny"}


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    lines = [f'{kind} = "int8_g32"' for kind in ("ffn", "conv", "attention", "embedding")]
    path.write_text("\n".join(["[schemes]", 'experts = "codebook4_g16"', *lines]), encoding="utf-8")
    report = convert(demo_checkpoint(), tmp_path / "m", find_recipe(str(path)))
    assert report.recipe["name"] == "mine"
    with PackedModel(tmp_path / "m") as model:
        experts = [tensor for tensor in model.tensors.values() if tensor.kind == "experts"]
        assert {m.scheme for tensor in experts for m in tensor.matrices} == {"codebook4_g16"}
        assert model.provenance == report.provenance


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    raw = GOLDEN_CASES["moe"]
    shape = read_shape(raw)
    sources = [s for p in plan_tensors(shape, find_recipe("int4").schemes) for s in p.sources]
    for name in ("model.layers.2.feed_forward.experts.3.w2.weight", "model.embed_tokens.weight", sources[-1].name):
        tensors = {s.name: goldens_tool.random_weights(s.name, s.shape) for s in sources}
        tensors[name].reshape(-1)[-1] = np.nan
        folder = write_checkpoint(tmp_path / name, raw, tensors)
        with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
            convert(folder, tmp_path / "out", find_recipe("balanced"))
        assert not list(tmp_path.glob("out*"))


def run_limited(output: Path, prefix: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "quantize", str(demo_checkpoint()), "-o", str(output)]
    return subprocess.run([*prefix, *command], capture_output=True, text=True, check=False, timeout=60)


def test_the_folder_one_stands_in_can_be_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(demo_checkpoint(), Path(), find_recipe("int4"), force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    with PackedModel(tmp_path / "here") as model:
        assert not model.verify()


@pytest.mark.slow
def test_no_permission_and_full_disk(tmp_path: Path) -> None:
    """A limit on file size stands for a full disk; a file where a folder should be, for missing permission."""
    done = run_limited(tmp_path / "out", ["prlimit", "--fsize=1000000"])
    assert done.returncode == 3, done.stderr
    assert "no room" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    done = run_limited(tmp_path / "file/out", [])
    assert done.returncode == 3
    assert "cannot be made" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    if os.geteuid() == 0 and shutil.which("setpriv"):
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o555)
        reachable = (
            subprocess.run(
                ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-P", "-c", "import edge_lfm"],
                capture_output=True,
                check=False,
            ).returncode
            == 0
        )
        if reachable:
            done = run_limited(closed / "out", ["setpriv", "--reuid=65534", "--clear-groups"])
            assert done.returncode == 3 and "permissions" in done.stderr


def test_missing_and_wrong_sources(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for source, message in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "file", "not a folder"),
        (tmp_path / "empty", r"config\.json does not exist"),
    ):
        with pytest.raises(EdgeLfmError, match=message):
            convert(source, tmp_path / "out", find_recipe("int4"))
    assert not (tmp_path / "out").exists()
