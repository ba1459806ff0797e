"""`edge-lfm pull --quantize`: what is packed while it comes is what is packed of the whole; models found by name."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub import COMMIT, Hub
from safetensors.numpy import load_file, save_file

from edge_lfm.cli import local_models
from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import DownloadError, OutputError, UsageError
from edge_lfm.pull import Pulled, pull_quantized
from edge_lfm.pull.hub import Address, read_address
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.output import JOURNAL, stage_of
from edge_lfm.quantize.recipe import find_recipe

pytestmark = pytest.mark.slow
REPO = "LiquidAI/demo"
RECIPE = find_recipe("int4")
SLOWLY = """
import sys, time
from edge_lfm.quantize import convert, journal
journal.SYNC_SECONDS = 0.0
pack = convert.pack_tensor
def slow(*args):
    time.sleep(0.01)
    return pack(*args)
convert.pack_tensor = slow
from edge_lfm.cli.main import main
sys.exit(main(["pull", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint as a hub has it, in two shards."""
    folder = tmp_path_factory.mktemp("hub") / "demo"
    folder.mkdir()
    for path in demo_checkpoint().iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    names: dict[str, str] = {}
    with (demo_checkpoint() / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = [name for name in header if name != "__metadata__"]
    for number, part in enumerate((tensors[::2], tensors[1::2]), 1):
        names |= dict.fromkeys(part, write_shard(folder / f"model-0000{number}-of-00002.safetensors", part, header))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    return folder


def write_shard(path: Path, names: list[str], header: dict[str, Any]) -> str:
    """Some tensors of the demo checkpoint, their bytes as they are."""
    content = (demo_checkpoint() / "model.safetensors").read_bytes()
    base, at, entries, parts = 8 + int.from_bytes(content[:8], "little"), 0, {}, []
    for name in names:
        first, last = header[name]["data_offsets"]
        entries[name] = header[name] | {"data_offsets": [at, at + last - first]}
        parts.append(content[base + first : base + last])
        at += last - first
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    return path.name


@pytest.fixture(scope="module")
def expected(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected") / "m"
    convert(repository, folder, RECIPE)
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_packed_as_it_comes_is_what_is_packed_of_the_whole(
    repository: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    with Hub({REPO: repository}) as hub:
        pull_quantized(REPO, tmp_path / "m", RECIPE, endpoint=hub.endpoint)
        weights = [name for name in hub.fetched if name.endswith(".safetensors")]
        assert len(weights) == len(hub.ranges) > 20  # never a whole file
        sizes = [int(last) - int(first) + 1 for first, _, last in (r[6:].partition("-") for r in hub.ranges)]
        whole = sum(path.stat().st_size for path in repository.glob("*.safetensors"))
        assert max(sizes) < whole / 4 and sum(sizes) < 1.2 * whole
    assert content(tmp_path / "m") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_connections_that_break_are_made_again(
    repository: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_lfm.pull.quantized._FIRST_WAIT_S", 0.001)
    with Hub({REPO: repository}, cuts=4) as hub:
        pull_quantized(REPO, tmp_path / "m", RECIPE, endpoint=hub.endpoint)
    assert content(tmp_path / "m") == expected


def test_kills_at_random_moments(repository: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    rng, output, kills = random.Random(5), tmp_path / "m", 0
    journal = stage_of(output) / JOURNAL
    with Hub({REPO: repository}) as hub:
        command = [
            sys.executable,
            "-P",
            "-c",
            SLOWLY,
            f"{hub.endpoint}/{REPO}",
            "--quantize",
            "int4",
            "-o",
            str(output),
        ]
        for _ in range(4):
            before = journal.stat().st_size if journal.exists() else 0
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
                while process.poll() is None and (journal.stat().st_size if journal.exists() else 0) <= before + 500:
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.1))
                process.kill()
                kills += process.wait() != 0
        assert kills >= 2
        hub.ranges.clear()
        pull_quantized(REPO, output, RECIPE, endpoint=hub.endpoint)
        sizes = [int(last) - int(first) + 1 for first, _, last in (r[6:].partition("-") for r in hub.ranges)]
        assert sum(sizes) < 0.9 * sum(path.stat().st_size for path in repository.glob("*.safetensors"))
    assert content(output) == expected


@pytest.mark.parametrize(("fault", "words"), [("changed", "has changed while"), ("whole", "gives no ranges of files")])
def test_a_hub_that_gives_something_else_is_told(
    fault: str, words: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_lfm.pull.remote import RemoteSafetensors

    view = RemoteSafetensors.view
    with Hub({REPO: repository}) as hub:

        def at_the_fifth(self: RemoteSafetensors, start: int, nbytes: int) -> Any:
            if len(hub.ranges) > 8:
                setattr(hub, fault, True)
            return view(self, start, nbytes)

        monkeypatch.setattr(RemoteSafetensors, "view", at_the_fifth)
        monkeypatch.setattr("edge_lfm.quantize.journal.SYNC_SECONDS", 0.0)
        with pytest.raises(DownloadError, match=words):
            pull_quantized(REPO, tmp_path / "m", RECIPE, endpoint=hub.endpoint)
    assert not (tmp_path / "m").exists()


def test_files_in_the_hubs_own_cache_are_read_there(
    repository: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache/models--LiquidAI--demo/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in repository.glob("*.safetensors"):
        (snapshot / path.name).write_bytes(path.read_bytes())
    with Hub({REPO: repository}) as hub:
        pull_quantized(REPO, tmp_path / "m", RECIPE, endpoint=hub.endpoint)
        assert not hub.ranges and not any(name.endswith(".safetensors") for name in hub.fetched)
    assert content(tmp_path / "m") == expected


def test_a_fused_checkpoint_comes_expert_by_expert(tmp_path: Path, case_checkpoints: dict[str, Path]) -> None:
    """As transformers 5 writes experts: one tensor of them all, of which a part is read at a time."""
    folder = tmp_path / "demo"
    folder.mkdir()
    for path in case_checkpoints["moe"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    parts = [name.rsplit(".", 4) for name in tensors if ".experts." in name]
    for layer in {part[0] + "." + part[1] for part in parts}:
        count = 1 + max(int(part[2]) for part in parts)
        w1, w2, w3 = ([tensors.pop(f"{layer}.{e}.{w}.weight") for e in range(count)] for w in ("w1", "w2", "w3"))
        tensors[f"{layer}.gate_up_proj"] = np.stack([np.concatenate(both) for both in zip(w1, w3, strict=True)])
        tensors[f"{layer}.down_proj"] = np.stack(w2)
    assert any(name.endswith("gate_up_proj") for name in tensors)
    save_file(tensors, folder / "model.safetensors")
    convert(folder, tmp_path / "expected", RECIPE)
    with Hub({REPO: folder}) as hub:
        pull_quantized(REPO, tmp_path / "m", RECIPE, endpoint=hub.endpoint)
    assert content(tmp_path / "m") == content(tmp_path / "expected")


def test_a_packed_model_comes_as_it_is(tmp_path: Path, demo: dict[str, Path]) -> None:
    with Hub({REPO: demo["int4"]}) as hub:
        assert isinstance(pull_quantized(REPO, tmp_path / "m", RECIPE, endpoint=hub.endpoint), Pulled)
    assert (tmp_path / "m/model.safetensors").read_bytes() == (demo["int4"] / "model.safetensors").read_bytes()


def test_models_are_found_by_name_listed_and_removed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_LFM_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0 and "no models in" in capsys.readouterr().err
    with Hub({REPO: repository}) as hub:
        assert main(["pull", f"{hub.endpoint}/{REPO}/tree/main", "--quantize", "int4"]) == 0
    assert "next: edge-lfm chat demo" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["recipe"], listed["finished"]) == (REPO, "int4", True)
    for name in ("demo", REPO):
        assert main(["run", name, "What is the capital of France?"]) == 0
        assert "Paris" in capsys.readouterr().out
    for command in (["inspect", "demo"], ["verify", "demo"], ["fit", "demo"], ["bench", "demo", "-p", "8", "-n", "2"]):
        assert main(command) == 0, command
    capsys.readouterr()
    (tmp_path / "models/LiquidAI/demo/notes.txt").write_text("mine", encoding="utf-8")
    assert main(["rm", "demo"]) == 3 and "also holds notes.txt" in capsys.readouterr().err
    (tmp_path / "models/LiquidAI/demo/notes.txt").unlink()
    assert main(["rm", "dmo"]) == 2 and "there is LiquidAI/demo" in capsys.readouterr().err
    assert main(["rm", "demo"]) == 0 and "freed" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0 and json.loads(capsys.readouterr().out) == []


def test_a_name_of_two_models_is_refused(
    tmp_path: Path, demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_LFM_MODELS", str(tmp_path))
    for owner in ("a", "b"):
        (tmp_path / owner).mkdir()
        (tmp_path / owner / "m").symlink_to(demo["int4"])
    with pytest.raises(UsageError, match=r"several models are called m .*a/m or b/m"):
        local_models.find_model("m")
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", "m"])
    assert "several models are called m (say a/m or b/m)" in capsys.readouterr().err
    assert local_models.find_model("b/m") == str(tmp_path / "b/m")
    assert local_models.find_model("other") == "other"


def test_a_repository_that_is_not_here_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_LFM_MODELS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["run", REPO, "Hello"]) == 2
    assert f"edge-lfm pull {REPO} --quantize balanced" in capsys.readouterr().err
    obtained: list[str] = []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def obtain(repo: str, progress: object) -> Path:
        obtained.append(repo)
        return tmp_path / "m"

    monkeypatch.setattr(local_models, "obtain", obtain)
    monkeypatch.setattr(sys, "stderr", Terminal())
    for answer, folder in (("\n", str(tmp_path / "m")), ("y\n", str(tmp_path / "m")), ("no\n", None)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        if folder is None:
            with pytest.raises(UsageError, match="was not pulled"):
                local_models.settle_model(REPO, lambda _: lambda _: None)
        else:
            assert local_models.settle_model(REPO, lambda _: lambda _: None) == folder
    assert obtained == [REPO, REPO]


def test_no_room_is_told_before_anything_comes(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Full())
    with Hub({REPO: repository}) as hub, pytest.raises(OutputError, match="GB needed"):
        pull_quantized(REPO, tmp_path / "m", RECIPE, endpoint=hub.endpoint)


class _Full:
    free = 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Address("a/b")),
        ("https://huggingface.co/a/b", Address("a/b")),
        ("https://huggingface.co/a/b/tree/v1.0", Address("a/b", "v1.0")),
        ("https://hf.co/a/b/blob/main/x-Q4_0.gguf", Address("a/b", "main", "x-Q4_0.gguf")),
        ("http://hub.local:81/a/b/resolve/main/d/x.gguf?download=true", Address("a/b", "main", "d/x.gguf", "http://hub.local:81")),
    ],
)  # fmt: skip
def test_addresses(text: str, expected: Address) -> None:
    assert read_address(text) == expected


@pytest.mark.parametrize(
    ("text", "revision", "file"),
    [("https://huggingface.co/a", None, None), ("ftp://x/a/b", None, None), ("https://hf.co/a/b/wiki/x", None, None),
     ("https://huggingface.co/a/b/tree/v1", "v2", None), ("https://hf.co/a/b/blob/main/x.gguf", None, "y.gguf"),
     ("https://huggingface.co/datasets/a/b", None, None)],
)  # fmt: skip
def test_addresses_that_are_none(text: str, revision: str | None, file: str | None) -> None:
    with pytest.raises(UsageError):
        read_address(text, revision, file)
