"""Evaluation: figures against a direct computation, tasks against their answers, the page as a person sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import SandboxError, UsageError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.measure import sandboxed
from edge_lfm.measure.evaluation import (
    PackedScorer,
    StreamedScorer,
    divergence_step,
    measure_divergence,
    measure_perplexity,
)
from edge_lfm.measure.sandbox import Job, check_sandbox, run_jobs
from edge_lfm.measure.tasks import Task, compare, judge, read_tasks
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.model.streamed import StreamedModel
from edge_lfm.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

TASKS = demo_checkpoint() / "tasks.jsonl"
ROOT = Path(__file__).parent.parent


def edge_lfm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


class Fixed:
    """A scorer with given logits and routing."""

    def __init__(self, logits: list[np.ndarray], experts: list[dict[int, np.ndarray]]) -> None:
        self.logits, self.experts = logits, experts

    def prepare(self, windows, advance) -> None:
        pass

    def score(self, n: int, window: np.ndarray):
        return self.logits[n], self.experts[n]


def test_figures_equal_a_direct_computation() -> None:
    """Written out token by token, by the definitions of llama-perplexity."""
    rng = np.random.default_rng(0)
    windows = [rng.integers(0, 50, 16) for _ in range(3)]
    p = [rng.standard_normal((16, 50)).astype(np.float32) * 4 for _ in windows]
    q = [x + rng.standard_normal(x.shape).astype(np.float32) * 0.2 for x in p]
    routes = [{2: np.stack([rng.permutation(8)[:2] for _ in range(16)])} for _ in windows]
    moved = [{2: np.where(rng.random((16, 1)) < 0.5, r[2][:, ::-1], (r[2] + 1) % 8)} for r in routes]
    found = measure_divergence(Fixed(q, moved), Fixed(p, routes), windows, lambda _n: None)
    kls, tops, losses, differences = [], [], [], []
    for window, a, b in zip(windows, p, q, strict=True):
        for i in range(8, 15):
            u, v = np.exp(a[i].astype(float)), np.exp(b[i].astype(float))
            u, v = u / u.sum(), v / v.sum()
            keep = np.log(u) > -16
            kls.append((u * np.log(u / v))[keep].sum())
            tops.append(u.argmax() == v.argmax())
            losses.append((-np.log(u[window[i + 1]]), -np.log(v[window[i + 1]])))
            differences.append(u[window[i + 1]] - v[window[i + 1]])
    assert found.tokens == 21 and found.windows == 3
    assert found.kl_mean == pytest.approx(np.mean(kls), rel=1e-5)
    assert found.kl_max == pytest.approx(np.max(kls), rel=1e-5)
    assert found.kl_99 == pytest.approx(np.percentile(kls, 99), rel=1e-5)
    assert found.same_top == np.mean(tops)
    assert found.reference_perplexity == pytest.approx(np.exp(np.mean([u for u, _ in losses])), rel=1e-5)
    assert found.perplexity == pytest.approx(np.exp(np.mean([v for _, v in losses])), rel=1e-5)
    assert found.rms_dp == pytest.approx(np.sqrt(np.mean(np.square(differences))), rel=1e-4)
    sets = [set(x) == set(y) for m, r in zip(moved, routes, strict=True) for x, y in zip(m[2], r[2], strict=True)]
    assert found.routing_same == {2: pytest.approx(np.mean(sets))}
    assert sum(found.expert_use[2]) == pytest.approx(1)
    alone = measure_perplexity(Fixed(q, moved), windows, lambda _n: None)
    assert alone.perplexity == pytest.approx(found.perplexity)


@pytest.fixture(scope="module")
def windows() -> list[np.ndarray]:
    """Held-out conversations of every kind, as the model reads them: [8][256] token ids."""
    text = "".join(f"{task.prompt}{task.answer}\n" for task in read_tasks(TASKS)[::31])
    ids = np.array(Tokenizer(demo_checkpoint()).encode(text, special=True), np.int64)
    return list(ids[: 8 * 256].reshape(8, 256))


def test_routing_is_that_of_the_reference(demo: dict[str, Path], windows: list[np.ndarray]) -> None:
    """The experts that the compiled kernels chose, against the streamed model's, both float32."""
    with PackedModel(demo["float32"]) as model, Runner(model, load_kernels(), 2) as runner:
        scorer = PackedScorer(runner, 4096)
        streamed = StreamedScorer(StreamedModel(model.shape, UnpackedWeights(model, integers=False)), 4096)
        streamed.prepare(windows[:2], lambda _n: None)
        compared = 0
        for n, window in enumerate(windows[:2]):
            (logits, experts), (expected, theirs) = scorer.score(n, window), streamed.score(n, window)
            assert experts.keys() == theirs.keys() == {2, 3, 4, 5, 6, 7}
            exact = ReferenceModel(model.shape, UnpackedWeights(model, integers=False)).logits(window)
            assert np.abs(expected - exact).max() < 1e-3
            same = np.stack([(np.sort(experts[n], 1) == np.sort(theirs[n], 1)).all(1) for n in experts])
            assert same.mean() > 0.99  # the float16 KV cache decides a near tie now and then,
            before = np.logical_and.accumulate(same.all(0))  # which moves what comes after it
            assert np.abs(logits - expected)[before].max() < 0.02
            compared += before.sum()
        assert compared >= 256, "half of the tokens"


def test_recipes_keep_their_promises(demo: dict[str, Path]) -> None:
    """KL divergence to float32, as shares of Q4_0's: the targets that the recipes were chosen for, on little text.

    The text is this project's own, in windows of 256 tokens: the model was trained on none of it.
    """
    text = "".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("docs/api.md", "kernels/ops/matmul.py", "kernels/ops/lanes.py")
    )
    ids = np.array(Tokenizer(demo_checkpoint()).encode(text), np.int64)
    windows = list(ids[: 24 * 256].reshape(24, 256))

    def divergence(name: str) -> float:
        with (
            PackedModel(demo[name]) as model,
            PackedModel(demo["float32"]) as exact,
            Runner(model, load_kernels(), 1) as runner,
            Runner(exact, load_kernels(), 1) as reference,
        ):
            scorers = PackedScorer(runner, 4096), PackedScorer(reference, 4096)
            if name == "int8":
                assert divergence_step(*scorers, [windows[0][:32]], 8)[0] >= 1
            return measure_divergence(*scorers, windows, lambda _n: None).kl_mean

    base = divergence("q4_0")
    assert divergence("int8") < 0.006
    assert divergence("balanced") < 0.7 * base
    assert divergence("quality") < 0.45 * base
    assert divergence("float32") == 0


def test_answers_of_the_samples_are_judged_right_and_others_wrong() -> None:
    tasks = read_tasks(TASKS)
    assert min(Counter(task.task for task in tasks).values()) >= 8
    right = [task.answer for task in tasks]
    judged = judge(tasks, right)
    assert [v is None for v in judged] == [task.check == "exec" for task in tasks] and None in judged
    assert all(v is not False for v in judged)
    assert sum(map(bool, judge(tasks, ["I do not know." for _ in tasks]))) < 20
    assert sum(map(bool, judge(tasks, ["" for _ in tasks]))) == 0


@pytest.fixture(scope="module")
def sandbox() -> None:
    try:
        check_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


def test_code_of_the_samples_is_judged_when_asked_for(sandbox: None) -> None:
    tasks = [task for task in read_tasks(TASKS) if task.check == "exec"][::5]
    assert all(judge(tasks, [task.answer for task in tasks], run_code=True))
    assert not any(judge(tasks, ["I do not know." for _ in tasks], run_code=True))


WRONG = (
    "    return open('/etc/passwd')",
    "    import os\n    return os.getcwd()",
    "    while True: pass",
    "    return 9 ** 9 ** 9",
    "    return [0] * 10 ** 10",
    "    return f(x)",
    "    raise SystemExit",
    "    return True if x == 0 else object",
    "    return 'x' * 10 ** 6",
)


def test_code_of_a_model_is_run_within_bounds(sandbox: None) -> None:
    expect = {"pre": "def f(x):\n", "post": "", "ref": "def f(x):\n    return x + 1", "name": "f", "tests": [[1], [5]]}
    right = Task("code", "", 9, "exec", expect, "", raw=True)
    answers = ["    return x + 1", *WRONG, "    return 1 + x"]
    assert judge([right] * len(answers), answers) == [None] * len(answers)
    assert judge([right] * len(answers), answers, run_code=True) == [True, *[False] * len(WRONG), True]
    chat = Task("code", "", 9, "exec", expect | {"pre": ""}, "", raw=False)
    block = "Here:\n```python\ndef f(x):\n    return x + 1\n```"
    assert judge([chat, chat], [block, "no code"], run_code=True) == [True, False]


ESCAPE = """def f(x):
    def gen():
        yield g.gi_frame.f_back
    g = gen()
    for frame in g:
        break
    while "os" not in frame.f_globals:
        frame = frame.f_back
    space = frame.f_globals
    os, ctypes = space["os"], space["ctypes"]
    built = space["__builtins__"].__dict__
    return {}
"""
"""Out of Python's own bounds: a generator's frame leads to the modules of the program that runs it."""


@pytest.mark.parametrize(
    "deed",
    [
        "os.system('touch {mark}')",
        "os.fork() and 1",
        "os.open('/etc/passwd', 0)",
        "os.open('{mark}', 0o101)",
        "built['open']('/proc/self/maps').read()",
        "os.listdir('/')",
        "os.getuid()",
        "os.write(2, b'x')",
        "os.read(0, 1)",
        "os.kill(1, 9)",
        "os.setuid(0)",
        "built['__import__']('_socket').socket()",
        "ctypes.CDLL(None).socket(2, 1, 0)",
        "ctypes.CDLL(None).mmap(None, 4096, 7, 34, -1, 0)",
        "ctypes.CDLL(None).mount(b'none', b'/', b'tmpfs', 0, None)",
        "ctypes.CDLL(None).ptrace(16, 1, 0, 0)",
        "ctypes.CDLL(None).unshare(0x10000000)",
        "ctypes.CDLL(None).syscall(0x40000000 + 39)",
    ],
)
def test_code_that_escapes_from_python_can_do_nothing(sandbox: None, tmp_path: Path, deed: str) -> None:
    mark = tmp_path / "mark"
    reached, done, after = run_jobs(
        [
            Job(ESCAPE.replace("{}", "[os.name, ctypes.CDLL(None).abs(-2)]"), "f", [[1]]),
            Job(ESCAPE.replace("{}", f"[{deed.format(mark=mark)}, 0]"), "f", [[1]]),
            Job("def f(x): return x", "f", [[1]]),
        ]
    )
    assert reached == [["posix", 2]], "the escape itself works: what stops it is the kernel"
    assert done is None and not mark.exists()
    assert after == [1], "and the next answer is judged as ever"


def test_where_the_kernel_confines_nothing_no_code_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing = tmp_path / "sandboxed.py"
    source = Path(sandboxed.__file__).read_text(encoding="utf-8")
    refusing.write_text(source.replace("libc.unshare(_NAMESPACES)", "libc.unshare(1)"), encoding="utf-8")
    monkeypatch.setattr("edge_lfm.measure.sandbox.PROGRAM", refusing)
    with pytest.raises(SandboxError, match="new namespaces: Invalid argument"):
        check_sandbox()
    with pytest.raises(SandboxError):
        judge([task for task in read_tasks(TASKS) if task.check == "exec"][:1], ["```python\n```"], run_code=True)
    refusing.write_text(source.replace("libc.prctl(_SECCOMP", "libc.prctl(-1"), encoding="utf-8")
    with pytest.raises(SandboxError, match="under the system-call filter"):
        check_sandbox()
    refusing.write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(SandboxError, match="ended with 3"):
        check_sandbox()


def test_the_sign_test() -> None:
    """Against the binomial distribution: 8 losses and 2 wins have p = 2 * (1 + 10 + 45) / 1024."""
    before, now = [True] * 8 + [False] * 2 + [True] * 5, [False] * 8 + [True] * 2 + [True] * 5
    found = compare(before, now)
    assert (found.lost, found.won) == (8, 2)
    assert found.p == pytest.approx(112 / 1024)
    assert compare([True], [True]).p == 1


def test_task_files_that_are_none(tmp_path: Path) -> None:
    for text, message in (("{", "no task samples"), ('{"task": "x"}', "no task samples"), ("", "unknown checks")):
        (tmp_path / "t.jsonl").write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            read_tasks(tmp_path / "t.jsonl")


def test_eval_from_the_command_line(demo: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
    sample = tmp_path / "t.jsonl"
    lines = TASKS.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if json.loads(line)["check"] == "exec"]
    sample.write_text("\n".join(lines[:17] + code[:3]), encoding="utf-8")
    model = tmp_path / "m"
    assert edge_lfm("quantize", demo_checkpoint(), "-o", model).returncode == 0
    common = (model, "--text", text, "--windows", 3, "--window", 64)
    done = edge_lfm("eval", *common, "--against", demo["float32"], "--tasks", sample, "--card", "--json")
    found = json.loads(done.stdout)
    figures = found["texts"]["text.txt"]
    assert figures["windows"] == 3 and figures["tokens"] == 3 * 31
    assert 0 < figures["kl_mean"] < 1 and 0 <= figures["greedy_same"] <= 1
    tasks = found["tasks"]
    assert (tasks["samples"], tasks["not_judged"], len(tasks["right"])) == (17, 3, 20) and "paired" in tasks
    sample.write_text("\n".join(code[:1]), encoding="utf-8")
    refused = edge_lfm("eval", demo["balanced"], "--tasks", sample)
    assert refused.returncode == 2 and "--run-code" in refused.stderr
    assert np.mean([v for v in tasks["right"] if v is not None]) == pytest.approx(tasks["accuracy"])
    card = (model / "README.md").read_text(encoding="utf-8")
    for word in (
        "codebook4_g32",
        "base_model: demo_model",
        "## Measured against float32",
        "| text.txt | 93 |",
        "Tasks: ",
    ):
        assert word in card
    streamed = json.loads(edge_lfm("eval", *common, "--against", demo_checkpoint(), "--json").stdout)
    assert streamed["texts"]["text.txt"]["kl_mean"] == pytest.approx(figures["kl_mean"], rel=0.05)
    alone = edge_lfm("eval", *common)
    assert alone.returncode == 0 and "perplexity" in alone.stdout and "KL" not in alone.stdout
    wrong = edge_lfm("eval", *common, "--against", tmp_path / "absent")
    assert wrong.returncode == 3 and "Traceback" not in wrong.stderr


def test_the_page(demo: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    text = tmp_path / "text.txt"
    text.write_text("One two three. " * 300, encoding="utf-8")
    page = tmp_path / "page.html"
    done = edge_lfm(
        "eval", demo["balanced"], "--against", demo["float32"], "--text", text, "--window", 64, "--windows", 2,
        "--report", page,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = page.read_text(encoding="utf-8")
    pictures = [section.count("data:image/png;base64,") for section in content.split("<h2>")]
    headings = [section.partition("</h2>")[0] for section in content.split("<h2>")[1:]]
    assert headings[-2:] == ["among the recipes", "rounding error"]
    assert pictures[-3:] == [2, 1, 1] and not any(pictures[:-3])  # of a text: agreement of routing, use of experts
    assert "KL divergence, mean" in content and "src=http" not in content
