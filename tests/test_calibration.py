"""Calibration and error feedback: statistics against a direct computation, GPTQ against what it promises."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN_CASES, goldens_tool
from safetensors.numpy import load_file, save_file

from edge_lfm.architectures import read_shape
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import EdgeLfmError, ModelFileError, UsageError
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.kernels.spec.definitions.codebook import round_weights
from edge_lfm.kernels.spec.schemes import CODEBOOK4_G16
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.model.streamed import StreamedModel
from edge_lfm.quantize.calibration import PRIOR_TOKENS, STATISTICS, Calibration, collect
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.feedback import HELD_OUT, with_feedback
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.shape import Shape

pytestmark = pytest.mark.slow


def open_weights(folder: Path) -> tuple[FolderCheckpoint, Shape, CheckpointWeights]:
    checkpoint = FolderCheckpoint(folder)
    shape = read_shape(checkpoint.raw_config)
    return checkpoint, shape, CheckpointWeights(checkpoint, shape, plan_tensors(shape, find_recipe("int8").schemes))


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_streamed_model_equals_transformers(
    case: str, case_checkpoints: dict[str, Path], golden_logits: dict[str, np.ndarray]
) -> None:
    checkpoint, shape, weights = open_weights(case_checkpoints[case])
    with checkpoint:
        ids = goldens_tool.token_ids(case)
        model = StreamedModel(shape, weights)
        found = model.head(model.hidden([ids, ids[:5], ids]))
    for part, expected in (
        (found[: len(ids)], golden_logits[case]),
        (found[len(ids) : len(ids) + 5], golden_logits[case][:5]),
        (found[-len(ids) :], golden_logits[case]),
    ):
        assert np.abs(part - expected).max() < 2e-4


@pytest.fixture(scope="module")
def windows() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(14, 4096, (24, 64)))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, windows: list[np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    report = collect(demo_checkpoint(), b"text", windows, folder, keep_inputs=True)
    assert report.tokens == 24 * 64 and report.experts == 6 * 16
    assert len(report.rare_experts) > 0  # random tokens are not what these experts are for
    return folder


def test_statistics_equal_a_direct_computation(calibrated: Path, windows: list[np.ndarray]) -> None:
    checkpoint, shape, weights = open_weights(demo_checkpoint())
    with checkpoint:
        known = Calibration.load(calibrated, checkpoint, shape)
        inputs: list[np.ndarray] = []

        class Observed(ReferenceModel):
            def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
                if name == "model.layers.1.conv.out_proj":
                    inputs.append(x)
                return super()._linear(name, x)

        for window in windows[:24]:
            Observed(shape, weights).logits(window)
        expected = np.mean(np.square(np.concatenate(inputs)), axis=0)
        found = known.squares["model.layers.1.conv.out_proj.weight"]
        assert np.abs(found - expected).max() < 1e-4 * expected.max()
        tensors = {p.name: p for p in plan_tensors(shape, find_recipe("quality").schemes)}
        tensor = tensors["model.layers.4.feed_forward.experts.3"]
        w1, w3, w2 = (known.importance_of(tensor)[s.name] for s in tensor.sources)
        assert np.array_equal(w1, w3) and w2.shape == (64,)
        seen = known.inputs_of(4, 3)
        power = np.square(seen.weight)
        own = (power[:, None] * np.square(seen.x)).sum(0) / power.sum()
        layer = known.squares["model.layers.4.feed_forward.experts.all.w1.weight"]
        mixed = (power.sum() * own + PRIOR_TOKENS * layer) / (power.sum() + PRIOR_TOKENS)
        assert np.corrcoef(mixed, w1)[0, 1] > 0.999


def test_an_expert_that_saw_nothing_has_no_inputs(calibrated: Path, tmp_path: Path) -> None:
    shutil.copytree(calibrated, tmp_path / "calibration")
    path = tmp_path / "calibration" / "inputs-4.safetensors"
    arrays = load_file(path)
    arrays["chosen"][arrays["chosen"] == 3] = 4
    save_file(arrays, path)
    checkpoint, shape, _ = open_weights(demo_checkpoint())
    with checkpoint:
        seen = Calibration.load(path.parent, checkpoint, shape).inputs_of(4, 3)
    assert seen.x.shape == (0, shape.hidden) and seen.weight.shape == (0,)


def test_a_calibrated_model_is_made_and_remembers_it(calibrated: Path, tmp_path: Path) -> None:
    for threads, name in ((1, "a"), (3, "b")):
        report = convert(
            demo_checkpoint(), tmp_path / name, find_recipe("quality"), calibration=calibrated, threads=threads
        )
    kept, tried = (int(n) for n in report.feedback_kept.split(" of "))
    assert 0 < kept <= tried
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    stored = json.loads((tmp_path / "a/config.json").read_text(encoding="utf-8"))
    provenance = stored["quantization_config"]["provenance"]
    assert provenance["calibration"]["tokens"] == 24 * 64
    convert(demo_checkpoint(), tmp_path / "plain", find_recipe("quality"))
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "plain/model.safetensors").read_bytes()


def test_calibrations_that_do_not_fit_are_refused(
    calibrated: Path, case_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="another checkpoint"):
        convert(case_checkpoints["moe"], tmp_path / "m", find_recipe("quality"), calibration=calibrated)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / STATISTICS).write_bytes((calibrated / STATISTICS).read_bytes()[:1000])
    for folder in (tmp_path / "broken", tmp_path / "absent"):
        with pytest.raises(ModelFileError, match="no calibration"):
            convert(demo_checkpoint(), tmp_path / "m", find_recipe("quality"), calibration=folder)
    assert not (tmp_path / "m").exists()


def correlated(rng: np.random.Generator, tokens: int, cols: int) -> np.ndarray:
    mix = rng.standard_normal((cols // 4, cols))
    return (rng.standard_normal((tokens, cols // 4)) @ mix + 0.3 * rng.standard_normal((tokens, cols))).astype(
        np.float32
    )


def output_error(w: np.ndarray, coded, x: np.ndarray) -> float:
    return float(np.linalg.norm(x @ (coded.quantized().values() - w).T))


def test_feedback_lowers_the_output_error_of_tokens_it_never_saw() -> None:
    """Strongly correlated inputs, 16 tokens a column: GPTQ's published advantage is a third and more."""
    rng = np.random.default_rng(0)
    w, everything = rng.standard_normal((48, 128)).astype(np.float32), correlated(rng, 3000, 128)
    x, new = everything[:2000], everything[2000:]
    searched = round_weights(w, CODEBOOK4_G16, np.square(x).mean(0))
    fed = with_feedback(w, searched, x, np.ones(len(x), np.float32))
    assert fed is not None
    assert output_error(w, fed, new) < 0.75 * output_error(w, searched, new)
    assert np.array_equal(fed.codes, searched.codes) and np.array_equal(fed.row_scale, searched.row_scale)


def test_feedback_is_not_tried_with_few_tokens_and_not_kept_where_it_hurts() -> None:
    rng = np.random.default_rng(1)
    w = rng.standard_normal((16, 128)).astype(np.float32)
    searched = round_weights(w, CODEBOOK4_G16)
    few = correlated(rng, 100, 128)
    assert with_feedback(w, searched, few, np.ones(100, np.float32)) is None
    # Tokens that judge have nothing to do with those that were seen: what was learnt cannot help.
    x = np.zeros((2000, 128), np.float32)
    x[:, :64] = correlated(rng, 2000, 64)
    judge = np.arange(2000) % HELD_OUT == HELD_OUT - 1
    x[judge] = 0
    x[judge, 64:] = rng.standard_normal((judge.sum(), 64))
    x[judge, :64] = rng.standard_normal((judge.sum(), 64)) * 10
    assert with_feedback(w, searched, x, np.ones(2000, np.float32)) is None


def test_texts_that_cannot_serve(tmp_path: Path) -> None:
    from edge_lfm.text.windows import read_text, windows_of

    (tmp_path / "latin1.txt").write_bytes("Straße".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8: byte 4"):
        read_text(tmp_path / "latin1.txt")
    with pytest.raises(UsageError, match="less than a window"):
        windows_of(demo_checkpoint(), "too short", 512, 4)
    with pytest.raises(EdgeLfmError, match=r"no tokenizer\.json"):
        windows_of(tmp_path, "text", 512, 4)
    windows = windows_of(demo_checkpoint(), "word " * 2000, 128, 5)
    assert len(windows) == 5 and all(len(w) == 128 and w[0] == 1 for w in windows)


def test_a_calibration_on_a_full_disk(tmp_path: Path) -> None:
    """A limit on file size stands for it; nothing is left."""
    text = tmp_path / "text.txt"
    text.write_text("Some words of a text. " * 400, encoding="utf-8")
    command = ["prlimit", "--fsize=20000", sys.executable, "-P", "-m", "edge_lfm.cli.main", "calibrate"]
    command += [str(demo_checkpoint()), "--text", str(text), "--keep-inputs", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3 and "cannot be written" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == [text]


def test_dense_and_fused_checkpoints_can_be_calibrated(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for case, source in case_checkpoints.items():
        if case not in ("dense", "moe"):
            continue
        folder = tmp_path / case
        folder.mkdir()
        vocab = GOLDEN_CASES[case]["vocab_size"]
        report = collect(source, b"", [rng.integers(0, vocab, 40) for _ in range(3)], folder, keep_inputs=True)
        assert report.tokens == 120 and (report.experts == 0) == (case == "dense")
        assert (folder / "forecast.safetensors").exists() == (case == "moe")
        made = convert(source, tmp_path / f"{case}-m", find_recipe("quality"), calibration=folder)
        assert made.provenance["calibration"]["tokens"] == 120
        assert (tmp_path / f"{case}-m" / "forecast.safetensors").exists() == (case == "moe")


def test_a_paged_model_evicts_by_its_own_forecast(calibrated: Path, tmp_path: Path) -> None:
    from edge_lfm.engine.paged import _policies
    from edge_lfm.memory.policy import FORECAST_FILE, DecayedUse, LearnedUse
    from edge_lfm.model.packed_model import PackedModel

    convert(demo_checkpoint(), tmp_path / "m", find_recipe("balanced"), calibration=calibrated)
    layers = [2, 3, 4, 5, 6, 7]
    with PackedModel(tmp_path / "m") as model:
        learned = _policies(model, layers, 0.5)
        assert all(isinstance(policy, LearnedUse) for policy in learned.values())
        chosen, others = np.array([[1, 5, 9, 3]]), np.array([[0, 2, 6, 12]])
        scores = []
        for used in (chosen, others):
            learned = _policies(model, layers, 0.5)
            for n in layers:
                learned[n].note(used)
            scores.append(learned[4].scores)
        assert scores[0].shape == (16,) and (scores[0] - scores[1])[chosen[0]].mean() > 0
        (tmp_path / "m" / FORECAST_FILE).unlink()
        assert all(type(policy) is DecayedUse for policy in _policies(model, layers, 0.5).values())
