"""Every verb on a tiny random model of every family, with a tokenizer and a template: nothing is LFM2's alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import GOLDEN_CASES, write_checkpoint
from hub import Hub
from serving import serving
from stepping import paging_ram

from edge_lfm import Model
from edge_lfm.architectures import family_of, read_shape
from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.formats.checkpoint import TOKENIZER_FILES
from edge_lfm.kernels.spec.isa import select_isa
from edge_lfm.pull import pull
from edge_lfm.quantize.families import PUBLISHED
from edge_lfm.quantize.recipe import recipes_for

pytestmark = pytest.mark.slow

GPT_OSS = "gpt_oss-window-beyond-the-prompt"
"""The case whose gate llama.cpp has."""
LATENT = ("glm4_moe_lite", "deepseek_v3")
SPARSE = ("moe", "qwen3_moe", "olmoe", "afmoe", "minimax_m2", GPT_OSS, "hunyuan", *LATENT)
FAMILIES = ("dense", "lfm3", "qwen2-tied-group3", "qwen3", *SPARSE)
WIDTH = dict.fromkeys(("olmoe", "minimax_m2", GPT_OSS), "intermediate_size")
TOP_K = {"hunyuan": "moe_topk"}
EXPERTS = dict.fromkeys(LATENT, "n_routed_experts")
NO_ONNX = {
    GPT_OSS: "layer 0 has attention sinks",
    "hunyuan": "layer 0 has queries and keys normed after they are turned",
    **dict.fromkeys(LATENT, "layer 0 has latent attention"),
}
"""Families that have no graph, and why."""
Verb = Callable[..., Any]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(case: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden case with the demo's vocabulary, split as the family's files split it."""
    raw = GOLDEN_CASES[case] | {"vocab_size": 4096}
    if case in SPARSE:  # enough of them that a part can be left out
        top_k = TOP_K.get(case, "num_experts_per_tok")
        raw |= {EXPERTS.get(case, "num_experts"): 24, top_k: 4, WIDTH.get(case, "moe_intermediate_size"): 128}
    folder = write_checkpoint(tmp_path_factory.mktemp(case) / "checkpoint", raw)
    for name in TOKENIZER_FILES:
        if (demo_checkpoint() / name).exists():
            (folder / name).write_bytes((demo_checkpoint() / name).read_bytes())
    spelling = family_of(raw).gguf
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    split, level = tokenizer["pre_tokenizer"]["pretokenizers"]
    splits = [split | {"pattern": {"Regex": pattern}} for pattern in spelling.split]
    tokenizer["pre_tokenizer"]["pretokenizers"] = [*splits, level]
    tokenizer["normalizer"] = {"type": "NFC"} if spelling.composes else None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """Run a verb with --json: what it prints."""

    def run(*arguments: object) -> Any:
        capsys.readouterr()
        assert main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="module")
def packed(case: str, checkpoint: Path) -> Path:
    folder = checkpoint.parent / "packed"
    assert main(["quantize", str(checkpoint), "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def model(packed: Path) -> Iterator[Model]:
    with Model.load(packed, threads=1, context=256) as loaded:
        yield loaded


def test_from_a_checkpoint_to_figures(case: str, verb: Verb, checkpoint: Path, tmp_path: Path) -> None:
    """calibrate, quantize by every recipe, verify, inspect, eval, bench."""
    text = tmp_path / "text.txt"
    text.write_text((demo_checkpoint() / "README.md").read_text(encoding="utf-8")[:3000], encoding="utf-8")
    verb("calibrate", checkpoint, "--text", text, "-o", tmp_path / "cal", "--tokens", 256, "--window", 32)
    lost = {}
    for recipe in recipes_for(read_shape(GOLDEN_CASES[case])):
        folder = tmp_path / recipe
        more = ("--calibration", tmp_path / "cal") if recipe == "balanced" else ()
        report = verb("quantize", checkpoint, "-o", folder, "--recipe", recipe, *more)
        assert verb("inspect", folder)["config"]["model_type"] == GOLDEN_CASES[case]["model_type"]
        assert report["size"]["parameters"] > 4096 * GOLDEN_CASES[case]["hidden_size"]
        verb("verify", folder)
        figures = verb("eval", folder, "--against", checkpoint, "--text", text, "--windows", 2, "--window", 32)
        lost[recipe] = figures["texts"]["text.txt"]["kl_mean"]
    assert lost["float32"] < lost["int8"] < lost["balanced"] < 1
    tests = verb("bench", tmp_path / "balanced", "-p", 8, "-n", 4, "-r", 1)["results"]
    assert [test["test"] for test in tests] == ["pp8", "tg4"]


def test_answers_and_conversations(verb: Verb, packed: Path, model: Model, tmp_path: Path) -> None:
    """run, and a session that is saved, restored, forked and undone."""
    answer = verb("run", packed, "Hello", "-n", 6, "--ignore-eos")
    assert len(answer["token_ids"]) == 6
    session = model.session()
    first = session.send("Hello", max_tokens=6)
    session.send("And again", max_tokens=6)
    session.save(tmp_path / "talk.session")
    other, restored = session.fork(), model.restore(tmp_path / "talk.session")
    session.undo()
    expected = session.send("Once more", max_tokens=6).token_ids
    for same in (other, restored):
        same.undo()
        assert same.send("Once more", max_tokens=6).token_ids == expected
    assert model.generate("Hello", max_tokens=6).token_ids == first.token_ids


def test_under_a_budget(case: str, verb: Verb, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model with experts gives the same tokens from a paged file; one without is refused."""
    arguments = ("run", packed, "Hello", "-n", 6, "--ignore-eos", "--context", 128, "--threads", 1)
    if case in SPARSE:
        paged = verb(*arguments, "--ram", paging_ram(packed, 128, threads=1))
        assert paged["paging"] and paged["token_ids"] == verb(*arguments)["token_ids"]
    else:
        assert main([*map(str, arguments), "--ram", "64M"]) == 4
        assert "are missing" in capsys.readouterr().err


def test_served(packed: Path) -> None:
    body = {"model": packed.name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with serving(str(packed)) as address:
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["usage"]["completion_tokens"] <= 4


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The mean difference of logits, as a share of their mean size."""
    return float(np.abs(found - expected).mean() / np.abs(expected).mean())


def test_out_and_in(
    case: str, verb: Verb, packed: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As GGUF and back, as an ONNX graph on onnxruntime, or refused by name."""
    prompt = model.encode_prompt("Hello")
    expected = model.logits(prompt)
    if case in NO_ONNX:
        assert main(["export", str(packed), "--format", "onnx", "-o", str(tmp_path / "onnx")]) != 0
        assert NO_ONNX[case] in capsys.readouterr().err
    else:
        verb("export", packed, "--format", "onnx", "-o", tmp_path / "onnx", "--activations", "float32")
        with Model.load(tmp_path / "onnx", threads=1) as exported:
            found = exported.logits(prompt)
        assert apart(found, expected) < 0.2  # the engine's activations have 8 bits, which turn near ties of experts
    # Without a second rounding: 0.7 % of each weight turns choices of experts in random weights, from the first token.
    verb("export", packed, "--format", "gguf", "-o", tmp_path / "m.gguf", "--type", "f32")
    verb("quantize", tmp_path / "m.gguf", "-o", tmp_path / "again", "--recipe", "float32")
    with Model.load(tmp_path / "again", threads=1) as again:
        assert again.stop_ids == model.stop_ids
        assert again.encode_prompt("Hello") == prompt
        found = again.logits(prompt)
    assert apart(found, expected) < 0.2


def test_shapes_without_weights(case: str, verb: Verb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """fit and synth, by a name."""
    monkeypatch.setitem(PUBLISHED, "tiny", GOLDEN_CASES[case])
    assert verb("fit", "tiny", "--device", "rpi5-8g")["fit"]["fits"]
    verb("synth", "tiny", "-o", tmp_path / "random")
    assert verb("bench", tmp_path / "random", "-p", 4, "-n", 2, "-r", 1)["results"]


def test_pulled(checkpoint: Path, tmp_path: Path) -> None:
    with Hub({"owner/model": checkpoint}) as hub:
        pull("owner/model", tmp_path / "here", endpoint=hub.endpoint, quiet=True)
    assert (tmp_path / "here/model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("case", ["qwen3_moe"], scope="module")
def test_bundled(packed: Path, verb: Verb, tmp_path: Path) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    verb("bundle", packed, "--target", select_isa().name, "--python", here, "-o", tmp_path / "bundle")
    shipped = next((tmp_path / "bundle").rglob("model.safetensors"))
    assert shipped.read_bytes() == (packed / "model.safetensors").read_bytes()
