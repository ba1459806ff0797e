"""`edge-lfm pull` against a local server that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hub import COMMIT, Hub

from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import DownloadError, MissingExtraError, OutputError, UnsupportedModelError, UsageError
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.pull import pull
from edge_lfm.pull.files import choose_files

pytestmark = pytest.mark.slow

REPO = "LiquidAI/demo"
MIB = 1 << 20


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "edge_lfm.cli.main", "pull", *arguments]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The demo model, with much beside it that is not needed."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for path in demo_checkpoint().iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "onnx/model.onnx", "onnx/model.safetensors", "photo.png", "[x]*.safetensors.txt"):
        (folder / name).write_bytes(b"not needed")
    return folder


def test_only_what_is_needed_comes(repository: Path, tmp_path: Path) -> None:
    with Hub({REPO: repository}) as hub:
        pulled = pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
        names = {p.name for p in (tmp_path / "out").iterdir() if p.is_file()}
        assert names == {*pulled.files, ".edge-lfm-pull.json"}
        names -= {".edge-lfm-pull.json"}
        assert {"config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"} <= names
        assert not names & {"pytorch_model.bin", "photo.png", "[x]*.safetensors.txt"}
        assert (pulled.commit, pulled.repo) == (COMMIT, REPO)
        for name in names:
            assert (tmp_path / "out" / name).read_bytes() == (repository / name).read_bytes()
        assert hub.fetched[0] == "config.json"
        with open_checkpoint(tmp_path / "out") as checkpoint:
            assert checkpoint.describe().experts == 16
        hub.fetched.clear()
        pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
        assert not hub.fetched  # it is all there


def test_a_vocabulary_and_a_licence_come_too(repository: Path, tmp_path: Path) -> None:
    for name in ("hy.tiktoken", "License.txt", "onnx/other.tiktoken"):
        (repository / name).write_text(name)
    with Hub({REPO: repository}) as hub:
        pulled = pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
    assert {"hy.tiktoken", "License.txt"} < set(pulled.files) and "onnx/other.tiktoken" not in pulled.files


def test_weights_of_pytorch_alone_are_refused_with_a_way(repository: Path, tmp_path: Path) -> None:
    (repository / "model.safetensors").unlink()
    with Hub({REPO: repository}) as hub, pytest.raises(DownloadError, match=r"pytorch_model\.bin only") as caught:
        pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
    assert "--revision refs/pr/N" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_shards_come_with_their_index(repository: Path, tmp_path: Path) -> None:
    (repository / "model.safetensors").rename(repository / "model-00001-of-00001.safetensors")
    (repository / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with Hub({REPO: repository}) as hub:
        pulled = pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
    assert {"model-00001-of-00001.safetensors", "model.safetensors.index.json"} <= set(pulled.files)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"model_type": "llama"}, "llama"), ({"quantization_config": {"quant_method": "awq"}}, "quant_method 'awq'")],
)
def test_what_cannot_be_quantized_costs_no_download(
    change: dict, reason: str, repository: Path, tmp_path: Path
) -> None:
    raw = json.loads((repository / "config.json").read_text())
    (repository / "config.json").write_text(json.dumps(raw | change))
    with Hub({REPO: repository}) as hub:
        with pytest.raises(UnsupportedModelError, match=reason):
            pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
        assert hub.fetched == ["config.json"]


def test_one_gguf_file(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        (folder / name).write_bytes(name.encode())
    with Hub({REPO: folder}) as hub:
        with pytest.raises(UsageError, match=r"--file: a-Q4_0\.gguf, a-Q8_0\.gguf"):
            pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
        with pytest.raises(DownloadError, match=r"a-Q4_0\.gguf"):
            pull(REPO, tmp_path / "out", file="b.gguf", endpoint=hub.endpoint, quiet=True)
        pulled = pull(REPO, tmp_path / "out", file="a-Q8_0.gguf", endpoint=hub.endpoint, quiet=True)
        assert pulled.files == {"a-Q8_0.gguf": 11} and hub.fetched == ["a-Q8_0.gguf"]


def test_a_cut_connection_is_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    content = np.random.default_rng(0).bytes(50 * MIB)
    (folder / "big.gguf").write_bytes(content)
    with Hub({REPO: folder}, cuts=1) as hub:
        pull(REPO, tmp_path / "out", file="big.gguf", endpoint=hub.endpoint, quiet=True)
        assert (tmp_path / "out" / "big.gguf").read_bytes() == content
        assert len(hub.ranges) == 1 and int(hub.ranges[0][6:].split("-")[0]) >= 10 * MIB


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a file; the same command fetches the rest alone."""
    folder, out = tmp_path / "repository", tmp_path / "out"
    folder.mkdir()
    content = np.random.default_rng(0).bytes(100 * MIB)
    (folder / "big.gguf").write_bytes(content)
    with Hub({REPO: folder}, stall_after=60 * MIB) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint}
        line = command(REPO, "--file", "big.gguf", "-o", str(out))
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size >= 40 * MIB for p in out.glob(".*.partial")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        with pytest.raises(OutputError, match="another edge-lfm"):
            pull(REPO, out, file="big.gguf", endpoint=hub.endpoint, quiet=True)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=20)[1]
        assert process.returncode == 130 and "the same command goes on" in errors and "Traceback" not in errors
        assert not (out / "big.gguf").exists()
        hub.stall_after = None
        done = subprocess.run([*line, "--json"], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["bytes"] == 100 * MIB
        assert (out / "big.gguf").read_bytes() == content
        assert int(hub.ranges[-1][6:].split("-")[0]) >= 40 * MIB


def test_damage_on_the_way_is_noticed(repository: Path, tmp_path: Path) -> None:
    with Hub({REPO: repository}) as hub:
        hub.damage = True
        with pytest.raises(DownloadError, match="damaged"):
            pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
        assert not (tmp_path / "out" / "model.safetensors").exists()
        hub.damage = False
        pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (repository / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "environment", "reason", "code"),
    [
        (["LiquidAI/none"], {}, "no repository LiquidAI/none", 6),
        ([REPO, "--revision", "v9"], {}, "no revision 'v9'", 6),
        (["a b/c"], {}, "not the name of a repository", 2),
        (["../../etc"], {}, "not the name of a repository", 2),
        ([REPO], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set", 6),
        ([REPO], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be fetched", 6),
        (["LiquidAI/empty"], {}, "no checkpoint", 6),
    ],
)
def test_what_goes_wrong_is_one_line(
    repository: Path, tmp_path: Path, arguments: list[str], environment: dict[str, str], reason: str, code: int
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    with Hub({REPO: repository, "LiquidAI/empty": tmp_path / "empty"}) as hub:
        line = command(*arguments, "-o", str(tmp_path / "out"))
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint} | environment
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    assert reason in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_what_did_not_come_from_the_hub_is_not_overwritten(repository: Path, tmp_path: Path) -> None:
    """A file of the user's is in the way before anything comes, and stays; one with the same content is kept."""
    out = tmp_path / "out"
    out.mkdir()
    with Hub({REPO: repository}) as hub:
        for name in ("config.json", "model.safetensors"):
            (out / name).write_text("mine")
            with pytest.raises(OutputError, match=f"{name} is in the way"):
                pull(REPO, out, endpoint=hub.endpoint, quiet=True)
            assert (out / name).read_text() == "mine" and not hub.fetched
            (out / name).unlink()
        (out / "config.json").symlink_to(tmp_path / "elsewhere.json")
        with pytest.raises(OutputError, match=r"config\.json is in the way"):
            pull(REPO, out, endpoint=hub.endpoint, quiet=True)
        (out / "config.json").unlink()
        (out / "tokenizer.json").write_bytes((repository / "tokenizer.json").read_bytes())
        pull(REPO, out, endpoint=hub.endpoint, quiet=True)
        assert "tokenizer.json" not in hub.fetched and "config.json" in hub.fetched
        (out / ".edge-lfm-pull.json").write_text("{")  # damaged notes: the contents tell
        hub.fetched.clear()
        pull(REPO, out, endpoint=hub.endpoint, quiet=True)
        assert not hub.fetched
        (out / "chat_template.jinja").write_text("edited by the user")
        with pytest.raises(OutputError, match=r"chat_template\.jinja is in the way"):
            pull(REPO, out, endpoint=hub.endpoint, quiet=True)
        (out / "chat_template.jinja").unlink()
        (repository / "chat_template.jinja").write_text("a later revision")
        for name in ("config.json", "chat_template.jinja"):
            (repository / name).write_bytes((repository / name).read_bytes() + b"\n")
        pull(REPO, out, endpoint=hub.endpoint, quiet=True)  # what was fetched and not touched is brought up to date
        assert (out / "config.json").read_bytes() == (repository / "config.json").read_bytes()


def test_no_room(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with Hub({REPO: repository}) as hub:
        with pytest.raises(OutputError, match="needed"):
            pull(REPO, tmp_path / "out", endpoint=hub.endpoint, quiet=True)
        assert not hub.fetched


def test_a_folder_that_cannot_be_written(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with Hub({REPO: repository}) as hub, pytest.raises(OutputError, match="taken"):
        pull(REPO, tmp_path / "taken", endpoint=hub.endpoint, quiet=True)


def test_a_name_that_leads_out_is_refused() -> None:
    for name in ("../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf"):
        with pytest.raises(DownloadError, match="no file"):
            choose_files(REPO, {name: 1}, name)


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"\[hub\]"):
        pull(REPO, tmp_path / "out")
    assert main(["pull", REPO, "-o", str(tmp_path / "out")]) == 5
    assert "pip install" in capsys.readouterr().err
