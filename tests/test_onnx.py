"""ONNX export against the checker, the NumPy reference and onnxruntime; and onnxruntime as a backend."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import GOLDEN_CASES

from edge_lfm import Model
from edge_lfm.architectures import read_shape
from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.feeds import Feed
from edge_lfm.errors import (
    CancelledError,
    ContextOverflowError,
    DoesNotFitError,
    EdgeLfmError,
    MissingExtraError,
    ModelFileError,
    NumericalError,
    UnsupportedModelError,
    UsageError,
)
from edge_lfm.export import onnx as exporter
from edge_lfm.export.onnx import write_onnx
from edge_lfm.export.onnx_data import ExternalData
from edge_lfm.export.source import open_source
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.memory.plan import Wishes, overhead_bytes
from edge_lfm.model.onnx_model import OnnxModel
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.plan import TENSOR_CLASSES, Schemes
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import Recipe, find_recipe

pytestmark = pytest.mark.slow

RECIPES = ("int4", "int8", "balanced", "compact", "quality", "small")
PROMPT = "What is the capital of France?"


@pytest.fixture(scope="module", autouse=True)
def _exact_experts() -> Iterator[None]:
    """onnxruntime rounds the activations of 8-bit experts unless it is told not to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORT_QMOE_CPU_QNBIT_GEMM", "fp32")
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """recipe -> the packed demo model, and its exact graph."""
    base = tmp_path_factory.mktemp("onnx")
    made = {}
    for recipe in RECIPES:
        packed, graph = base / recipe, base / f"{recipe}-onnx"
        convert(demo_checkpoint(), packed, find_recipe(recipe))
        with open_source(packed) as source:
            write_onnx(source, graph, "float32")
        made[recipe] = packed, graph
    return made


@pytest.fixture(scope="module")
def model(exported: dict[str, tuple[Path, Path]]) -> Iterator[Model]:
    with Model.load(exported["int4"][1], context=512, threads=1) as loaded:
        yield loaded


def reference_of(packed: PackedModel) -> ReferenceModel:
    """Float activations on the dequantized weights."""
    unpacked = UnpackedWeights(packed, integers=False)
    cache: dict[str, F32] = {}
    return ReferenceModel(
        packed.shape, lambda name: cache[name] if name in cache else cache.setdefault(name, unpacked(name))
    )  # type: ignore[arg-type]


def logits_of(graph: Path, ids: np.ndarray, splits: list[int]) -> F32:
    """Logits of all tokens by onnxruntime alone, fed in parts, states handed on by their names."""
    session = onnxruntime.InferenceSession(str(graph / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    state = {
        i.name: np.zeros([d if isinstance(d, int) else int(d == "batch_size") for d in i.shape], np.float32)
        for i in session.get_inputs()
        if i.name.startswith("past")
    }
    rows, position = [], 0
    for part in np.split(ids, splits):
        position += len(part)
        mask = np.ones((1, position), np.int64)
        given = dict(
            zip(names, session.run(None, {"input_ids": part[None], "attention_mask": mask, **state}), strict=True)
        )
        rows.append(given.pop("logits")[0])
        state = {
            k.replace("present_conv", "past_conv").replace("present.", "past_key_values."): v for k, v in given.items()
        }
    return np.concatenate(rows)


# The graph


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_graph_computes_the_packed_model(
    exported: dict[str, tuple[Path, Path]], demo_goldens: dict[str, dict], recipe: str
) -> None:
    """Logits within 1e-3 of the reference on the same weights, and the same greedy tokens, in parts of all sizes."""
    packed, graph = exported[recipe]
    with PackedModel(packed) as opened:
        reference = reference_of(opened)
        for prompt in demo_goldens.values():
            ids = np.array(prompt["prompt_ids"] + prompt["greedy_ids"])
            expected = reference.logits(ids)
            found = logits_of(graph, ids, [len(ids) // 2, len(ids) // 2 + 1, len(ids) // 2 + 3])
            assert np.abs(found - expected).max() < 1e-3
            assert np.array_equal(found.argmax(1), expected.argmax(1))


def beyond_the_graph(case: str) -> str | None:
    """What a case has that the graph has no nodes for."""
    attentions = read_shape(GOLDEN_CASES[case]).attentions.values()
    if any(attention.sinks for attention in attentions):
        return "layer 0 has attention sinks"
    if any(attention.norm_after_rope for attention in attentions):
        return "layer 0 has queries and keys normed after they are turned"
    return None


@pytest.mark.parametrize("case", [case for case in GOLDEN_CASES if beyond_the_graph(case)])
def test_attention_beyond_the_graph_is_refused(
    packed_cases: dict[str, dict[str, Path]], case: str, tmp_path: Path
) -> None:
    refused = pytest.raises(UnsupportedModelError, match=beyond_the_graph(case))
    with open_source(packed_cases["int8"][case]) as source, refused:
        write_onnx(source, tmp_path / "g", "float32")
    assert list(tmp_path.iterdir()) == []


def has_latents(case: str) -> bool:
    return bool(read_shape(GOLDEN_CASES[case]).latents)


@pytest.mark.parametrize("case", [case for case in GOLDEN_CASES if has_latents(case)])
def test_latents_are_refused(packed_cases: dict[str, dict[str, Path]], case: str, tmp_path: Path) -> None:
    refused = pytest.raises(UnsupportedModelError, match="layer 0 has latent attention")
    with open_source(packed_cases["int8"][case]) as source, refused:
        write_onnx(source, tmp_path / "g", "float32")
    assert list(tmp_path.iterdir()) == []


DRAWN = [c for c in GOLDEN_CASES if not beyond_the_graph(c) and not has_latents(c)]


@pytest.mark.parametrize("case", DRAWN)
def test_every_variant_of_the_family(
    packed_cases: dict[str, dict[str, Path]], golden_logits: dict[str, np.ndarray], case: str, tmp_path: Path
) -> None:
    packed = packed_cases["int8"][case]
    with open_source(packed) as source:
        write_onnx(source, tmp_path / "g", "float32")
    ids = np.arange(1, 20) * 3 % GOLDEN_CASES[case]["vocab_size"]
    with PackedModel(packed) as opened:
        expected = reference_of(opened).logits(ids)
    found = logits_of(tmp_path / "g", ids, [7, 8])
    assert np.abs(found - expected).max() < 1e-3 * max(1.0, float(np.abs(expected).max()))


def test_greedy_tokens_are_those_of_the_engine(
    exported: dict[str, tuple[Path, Path]], demo_goldens: dict[str, dict]
) -> None:
    """The engine rounds activations to 8 bits: where it decides by more than that costs, the tokens are the same."""
    packed, graph = exported["int4"]
    with Model.load(packed) as ours, Model.load(graph) as theirs:
        for name, prompt in demo_goldens.items():
            answers = [m.generate(prompt["prompt_ids"], max_tokens=24, temperature=0).token_ids for m in (ours, theirs)]
            same = next((n for n, (a, b) in enumerate(zip(*answers, strict=False)) if a != b), None)
            if same is not None:
                row = ours.logits([*prompt["prompt_ids"], *answers[0][:same]])[-1]
                first, second = np.sort(row)[::-1][:2]
                assert first - second < 0.5, name


def test_names_and_types_are_those_that_others_expect(exported: dict[str, tuple[Path, Path]]) -> None:
    graph = onnx.load(exported["int4"][1] / "model.onnx", load_external_data=False).graph
    inputs = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
    outputs = {o.name for o in graph.output}
    assert inputs["input_ids"] == ["batch_size", "sequence_length"]
    assert inputs["past_conv.0"] == ["batch_size", 256, 3]
    assert inputs["past_key_values.2.key"] == ["batch_size", 2, "past_sequence_length", 64]
    assert {"logits", "present_conv.0", "present.2.key", "present.2.value"} <= outputs
    genai = json.loads((exported["int4"][1] / "genai_config.json").read_text())["model"]
    for kind in ("inputs", "outputs"):
        for pattern in genai["decoder"][kind].values():
            assert any(pattern.replace("%d", str(n)) in {*inputs, *outputs} for n in range(8)), pattern


def test_onnxruntime_genai_generates(exported: dict[str, tuple[Path, Path]], demo_goldens: dict[str, dict]) -> None:
    og = pytest.importorskip("onnxruntime_genai", reason="needs onnxruntime-genai")
    _, graph = exported["int4"]
    theirs = og.Model(str(graph))
    prompt = demo_goldens["capital"]
    assert og.Tokenizer(theirs).encode(prompt["prompt"]).tolist() == prompt["prompt_ids"]
    parameters = og.GeneratorParams(theirs)
    parameters.set_search_options(max_length=len(prompt["prompt_ids"]) + len(prompt["greedy_ids"]), do_sample=False)
    generator = og.Generator(theirs, parameters)
    generator.append_tokens(np.array([prompt["prompt_ids"]], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    answer = generator.get_sequence(0)[len(prompt["prompt_ids"]) :].tolist()
    assert answer == prompt["greedy_ids"][: len(answer)] and len(answer) >= len(prompt["greedy_ids"]) - 1


def test_batches_of_several_sequences(exported: dict[str, tuple[Path, Path]]) -> None:
    session = onnxruntime.InferenceSession(str(exported["int4"][1] / "model.onnx"))
    ids = np.array([[1, 6, 449, 212], [1, 7, 20, 30]])
    feeds = {
        i.name: np.zeros([d if isinstance(d, int) else 2 * int(d == "batch_size") for d in i.shape], np.float32)
        for i in session.get_inputs()
        if i.name.startswith("past")
    }
    both = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones((2, 4), np.int64), **feeds})[0]
    for row, alone in zip(both, ids, strict=True):
        assert np.abs(row - logits_of(exported["int4"][1], alone, [])).max() < 1e-4


def test_shards_hold_what_one_file_holds(
    exported: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, whole = exported["int4"]
    monkeypatch.setattr(exporter, "ExternalData", lambda folder: ExternalData(folder, 1 << 20))
    with open_source(packed) as source:
        report = write_onnx(source, tmp_path / "g", "float32")
    sizes = [(tmp_path / "g" / name).stat().st_size for name in report.files if "_data" in name]
    assert len(sizes) > 4 and max(sizes) <= (1 << 20) + 4096
    assert report.files[:3] == ("model.onnx", "model.onnx_data", "model.onnx_data_1")
    ids = np.arange(1, 30)
    assert np.array_equal(logits_of(tmp_path / "g", ids, []), logits_of(whole, ids, []))


def test_int8_activations_cost_less_than_the_weights_did(
    exported: dict[str, tuple[Path, Path]], tmp_path: Path, demo: dict[str, Path], demo_goldens: dict[str, dict]
) -> None:
    with open_source(exported["int4"][0]) as source:
        write_onnx(source, tmp_path / "g", "int8")
    moved, lost = 0.0, 0.0
    with Model.load(demo["float32"]) as original:
        for prompt in demo_goldens.values():
            ids = np.array(prompt["prompt_ids"])
            exact = logits_of(exported["int4"][1], ids, [])
            rounded = logits_of(tmp_path / "g", ids, [])
            assert not np.array_equal(exact, rounded)
            moved += float(np.square(rounded - exact).mean())
            lost += float(np.square(exact - original.logits(ids.tolist())).mean())
    assert moved < 0.5 * lost


# The backend


def test_a_conversation(model: Model) -> None:
    session = model.session()
    first = session.send(PROMPT, temperature=0)
    assert first.text == "The capital of France is Paris."
    second = session.send("And of Italy?", temperature=0)
    assert second.timings.cached_tokens > 0
    fresh = model.generate(session.messages[:-1], temperature=0)
    assert fresh.text == second.text


def test_a_conversation_on_disk(model: Model, tmp_path: Path, exported: dict[str, tuple[Path, Path]]) -> None:
    session = model.session()
    session.send(PROMPT, temperature=0)
    session.save(tmp_path / "s")
    with Model.load(exported["int4"][1], context=512, threads=1) as other:
        restored = other.restore(tmp_path / "s")
        assert restored.messages == session.messages
        again = restored.send("And of Italy?", temperature=0)
    assert again.timings.cached_tokens >= 20
    assert again.text == session.send("And of Italy?", temperature=0).text
    with Model.load(exported["int4"][0]) as native, pytest.raises(EdgeLfmError, match="another model"):
        native.restore(tmp_path / "s")


def test_going_back_and_on(model: Model) -> None:
    """A second question to the same start uses the checkpoint at the turn, and answers as a fresh start does."""
    messages = [{"role": "user", "content": PROMPT}]
    answer = model.chat(messages, temperature=0)
    turn = [*messages, {"role": "assistant", "content": answer.text}, {"role": "user", "content": "And of Spain?"}]
    after = model.chat(turn, temperature=0)
    assert after.timings.cached_tokens > 0
    changed = [*turn[:-1], {"role": "user", "content": "Thank you!"}]
    found = model.chat(changed, temperature=0)
    assert found.timings.cached_tokens > 0
    model.engine.pool.limit_bytes = 0
    model.generate("x", max_tokens=1)  # nothing is kept any more
    assert model.chat(changed, temperature=0).text == found.text


def test_everything_that_needs_the_engine_works(model: Model) -> None:
    assert model.generate("Name a colour.", choices=["red", "blue"], temperature=0).text in ("red", "blue")
    labels = model.classify("Is water wet?", ["yes", "no"])
    assert sum(labels.values()) == pytest.approx(1)
    plain = model.generate(PROMPT, temperature=0)
    assert model.generate(PROMPT, temperature=0, lookup=4).text == plain.text
    assert "".join(model.stream(PROMPT, temperature=0).texts()) == plain.text
    whole = model.generate(PROMPT, temperature=0, logprobs=2)
    assert whole.text == plain.text and whole.logprobs is not None


def test_a_long_prompt_comes_in_chunks(model: Model) -> None:
    ids = (np.arange(300) * 7 % 4000).tolist()
    whole = model.logits(ids)
    state = model.backend.new_state(512)
    assert np.abs(model.backend.read(ids, state) - whole[-1]).max() < 1e-3
    assert state.position == 300
    with pytest.raises(ContextOverflowError):
        model.logits(list(range(600)))
    with pytest.raises(UsageError, match="token 1 is 4096"):
        model.logits([1, 4096])


def test_a_step_can_be_cancelled(model: Model) -> None:
    state = model.backend.new_state(512)
    with pytest.raises(CancelledError):
        model.backend.run([Feed(state, np.arange(5))], cancelled=lambda: True)
    assert state.position == 0


def test_what_the_backend_cannot_do_is_said(model: Model, exported: dict[str, tuple[Path, Path]]) -> None:
    graph = exported["int4"][1]
    with pytest.raises(UsageError, match="routing"):
        model.backend.run([Feed(model.backend.new_state(64), [1])], routing=lambda n, e: None)
    with pytest.raises(UsageError, match="in memory"):
        model.change_budget("1G")
    with pytest.raises(UsageError, match="float32"):
        Model.load(graph, kv_dtype="int8")
    with pytest.raises(UsageError, match="onnxruntime"):
        Model.load(graph, backend="tpu")
    with pytest.raises(UsageError, match="context"):
        Model.load(graph, context=1 << 20)
    with pytest.raises(EdgeLfmError, match="MiB are missing"):
        Model.load(graph, ram="50M")
    with pytest.raises(UsageError, match="exported graph"):
        Model.load(graph, backend="native")
    with pytest.raises(ModelFileError, match="edge-lfm export"):
        Model.load(exported["int4"][0], backend="onnxruntime")
    assert model.isa == f"onnxruntime {onnxruntime.__version__}"
    assert model.paging is None


def test_a_stated_budget_holds_the_conversations_too(exported: dict[str, tuple[Path, Path]]) -> None:
    """Keys and values in float32: 3 layers, 2 heads of 64, 3,072 bytes a token, 6 MB for 2,048 tokens."""
    graph = exported["int4"][1]
    files = OnnxModel(graph)
    needed = files.nbytes + overhead_bytes(files.shape, Wishes(threads=1, chunk=128))
    with Model.load(graph, ram=needed + 9_000_000, threads=1) as fits:
        assert (fits.context, fits.scheduler.parallel) == (2048, 1)
    with pytest.raises(DoesNotFitError, match="GiB are missing"):
        Model.load(graph, ram=needed + 6_000_000, threads=1)


def test_from_the_command_line(
    exported: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, graph = exported["int4"]
    assert main(["run", str(graph), PROMPT, "--temp", "0"]) == 0
    assert capsys.readouterr().out.strip() == "The capital of France is Paris."
    assert main(["run", "--backend", "onnxruntime", PROMPT, "--temp", "0"]) == 0
    assert "Paris" in capsys.readouterr().out
    assert main(["bench", str(graph), "-p", "8", "-n", "4", "-r", "1", "-t", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert {row["test"] for row in rows} == {"pp8", "tg4"} and rows[0]["bound"] is None
    assert main(["bench", str(graph), "-p", "8", "-n", "4", "-r", "1", "-t", "1"]) == 0
    assert "onnxruntime" in capsys.readouterr().out
    assert main(["bench", str(graph), "--plot", str(tmp_path / "x.png")]) == 2
    command = ["export", str(packed), "--format", "onnx", "-o", str(tmp_path / "g")]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"]["experts"] == "QMoE, 4 bits, blocks of 32"
    assert main(command) == 3
    assert main([*command, "--force", "--activations", "int3"]) == 2
    assert main([*command, "--force", "--type", "f16"]) == 2
    assert main([*command, "--force"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g"]


# What can go wrong


def test_a_folder_that_is_damaged(exported: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    graph = exported["int4"][1]
    for broken in ("model.onnx_data", "model.onnx", "config.json"):
        folder = tmp_path / broken
        folder.mkdir()
        for path in graph.iterdir():
            content = path.read_bytes()
            (folder / path.name).write_bytes(content[: len(content) // 2] if path.name == broken else content)
        with pytest.raises(ModelFileError, match=broken.replace(".onnx_data", "")):
            Model.load(folder)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    made = onnx.helper.make_graph([node], "g", [info("x", 1, [1])], [info("y", 1, [1])])
    onnx.save(
        onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
        foreign / "model.onnx",
    )
    (foreign / "config.json").write_bytes((graph / "config.json").read_bytes())
    with pytest.raises(ModelFileError, match="not exported by edge-lfm"):
        Model.load(foreign)


def test_nan_is_an_error(exported: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    for path in exported["int4"][1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    norm = next(t for t in graph.graph.initializer if t.name == "model.embedding_norm.weight")
    norm.CopyFrom(onnx.numpy_helper.from_array(np.full(256, np.nan, np.float32), norm.name))
    onnx.save(graph, tmp_path / "model.onnx")
    with Model.load(tmp_path) as damaged, pytest.raises(NumericalError):
        damaged.generate(PROMPT)


def test_what_cannot_be_exported(packed_cases: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    moe = next(case for case, raw in GOLDEN_CASES.items() if raw["model_type"] == "lfm2_moe")
    with (
        open_source(packed_cases["float32"][moe]) as source,
        pytest.raises(UnsupportedModelError, match="float32 experts"),
    ):
        write_onnx(source, tmp_path / "g")
    mixed = dict.fromkeys(TENSOR_CLASSES, "int8_g32") | {"experts": "int4_g32", "experts_down": "codebook4_g32"}
    convert(demo_checkpoint(), tmp_path / "mixed", Recipe("mixed", "", Schemes("mixed", mixed)))
    with (
        open_source(tmp_path / "mixed") as source,
        pytest.raises(UnsupportedModelError, match="experts in codebook4_g32 and int4_g32"),
    ):
        write_onnx(source, tmp_path / "g")
    with open_source(demo_checkpoint()) as source, pytest.raises(UnsupportedModelError, match="edge-lfm quantize"):
        write_onnx(source, tmp_path / "g")
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]


def test_a_full_disk_leaves_nothing(
    exported: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ExternalData, "_shard", no_room)
    with open_source(exported["int4"][0]) as source, pytest.raises(EdgeLfmError, match="cannot be written"):
        write_onnx(source, tmp_path / "g")
    assert not list(tmp_path.iterdir())


def test_without_the_packages(
    exported: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed, graph = exported["int4"]
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.19.2"))
    with pytest.raises(MissingExtraError, match=r"too old.*\[onnx\]"):
        Model.load(graph)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"\[onnx\]"):
        Model.load(graph)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with open_source(packed) as source, pytest.raises(MissingExtraError, match=r"\[onnx\]"):
        write_onnx(source, tmp_path / "g")
