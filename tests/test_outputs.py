"""What a command writes: nothing of the user's goes, no moment without a model, one writer for each output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_lfm import demo as demo_module
from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint, packed_demo
from edge_lfm.errors import OutputError
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.file_list import LIST, changed_files, write_list
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.quantize import output as output_module
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.output import check_output, staged_folder, working_folder
from edge_lfm.quantize.recipe import find_recipe

INT4 = find_recipe("int4")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
@pytest.mark.parametrize("suffix", [".partial", ".old"])
def test_what_lies_beside_an_output_stays(kind: str, suffix: str, demo: dict[str, Path], tmp_path: Path) -> None:
    """Whatever it is called: the working folder is known by the list in it."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("my only copy")
    for name in ("m", "g.gguf"):
        neighbour = tmp_path / f"{name}{suffix}"
        if kind == "folder":
            shutil.copytree(mine, neighbour)
        elif kind == "file":
            neighbour.write_text("half of a download")
        else:
            neighbour.symlink_to(mine)
    before = snapshot(tmp_path)
    for force in (False, True):
        for name, make in (
            ("m", lambda to, force=force: convert(demo_checkpoint(), to, INT4, force=force)),
            ("g.gguf", lambda to, force=force: export(demo["int4"], to, force)),
        ):
            if suffix == ".partial":
                with pytest.raises(OutputError, match=r"partial is in the way, and edge-lfm did not make it"):
                    make(tmp_path / name)
            else:
                make(tmp_path / name)
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before


def export(model: Path, to: Path, force: bool = False) -> None:
    with open_source(model) as source:
        write_gguf(source, to, force=force)


def test_force_replaces_only_what_edge_lfm_made(demo: dict[str, Path], tmp_path: Path) -> None:
    kept = {
        "checkpoint": lambda to: shutil.copytree(demo_checkpoint(), to),  # has a config.json, as a model has
        "web": lambda to: (to.mkdir(), (to / "config.json").write_text('{"port": 80}')),
        "notes": lambda to: (shutil.copytree(demo["int4"], to), (to / "notes.txt").write_text("mine")),
        "subfolder": lambda to: (shutil.copytree(demo["int4"], to), (to / "sub").mkdir()),
        "earlier": lambda to: (shutil.copytree(demo["int4"], to), (to / LIST).unlink(), (to / "n").write_text("")),
        "damaged list": lambda to: (shutil.copytree(demo["int4"], to), (to / LIST).write_text("{"), (to / "n").touch()),
        "file": lambda to: to.write_text("x"),
    }
    for name, make in kept.items():
        make(tmp_path / name)
        with pytest.raises(OutputError, match=r"did not make|is not a model folder"):
            convert(demo_checkpoint(), tmp_path / name, INT4, force=True)
    before = snapshot(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a GGUF file"):
        export(demo["int4"], tmp_path / "thesis.txt", force=True)
    assert snapshot(tmp_path) == before | {"thesis.txt": b"mine"}
    shutil.copytree(demo["int8"], tmp_path / "made before there were lists")
    (tmp_path / "made before there were lists" / LIST).unlink()
    for name in ("made before there were lists", "empty"):
        (tmp_path / name).mkdir(exist_ok=True)
        check_output(tmp_path / name, None, force=True)
        convert(demo_checkpoint(), tmp_path / name, INT4, force=True)
        assert changed_files(tmp_path / name) == []


def test_there_is_a_model_at_every_moment_of_a_replacement(demo: dict[str, Path], tmp_path: Path) -> None:
    model, missing, stop = tmp_path / "m", 0, threading.Event()
    shutil.copytree(demo["int4"], model)

    def look() -> None:
        nonlocal missing
        while not stop.is_set():
            missing += not (model / "config.json").exists()

    watcher = threading.Thread(target=look)
    watcher.start()
    for n in range(50):
        with staged_folder(model, force=True) as stage:
            (stage / "config.json").write_text(json.dumps({"n": n}))
    stop.set()
    watcher.join()
    assert missing == 0 and json.loads((model / "config.json").read_text()) == {"n": 49}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_kill_where_folders_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old one has another name for a moment, which is told; the next run gives it its name back."""
    model = tmp_path / "m"
    for n in range(2):
        with staged_folder(model, force=True) as stage:
            (stage / "config.json").write_text(str(n))
        monkeypatch.setattr(output_module, "exchange", lambda _one, _other: False)
    assert "cannot exchange folders" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    model.rename(tmp_path / "m.edge-lfm-old")  # as a kill between the two renames leaves it
    with pytest.raises(OutputError, match="m exists"), staged_folder(model) as stage:
        (stage / "config.json").write_text("2")
    assert (model / "config.json").read_text() == "1"


def test_one_writer_for_each_output(demo: dict[str, Path], tmp_path: Path) -> None:
    with working_folder(tmp_path / "m.gguf"), pytest.raises(OutputError, match="another edge-lfm is writing"):
        export(demo["int4"], tmp_path / "m.gguf", force=True)
    with staged_folder(tmp_path / "m") as stage:
        (stage / "config.json").write_text("{}")
        for force in (False, True):
            with pytest.raises(OutputError, match="another edge-lfm is writing"):
                convert(demo_checkpoint(), tmp_path / "m", INT4, force=force)
    assert snapshot(tmp_path / "m")["config.json"] == b"{}"


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"), staged_folder(tmp_path / "m") as stage:
        (stage / "config.json").write_text("{}")
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "thesis.txt").write_text("mine")
    assert snapshot(tmp_path) == {"m/thesis.txt": b"mine"}


def test_an_output_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "disk" / "m")
    for n in range(2):
        with staged_folder(tmp_path / "m", force=True) as stage:
            assert stage.parent == tmp_path / "disk"
            (stage / "config.json").write_text(str(n))
    assert (tmp_path / "m").is_symlink() and (tmp_path / "disk/m/config.json").read_text() == "1"


def test_verify_finds_every_changed_file(demo: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = tmp_path / "m"
    shutil.copytree(demo["int4"], model)
    (model / "forecast.safetensors").write_bytes(b"a forecast")
    write_list(model)
    assert main(["verify", str(model)]) == 0
    for name in (
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "tokenizer_config.json",
        "forecast.safetensors",
    ):
        before = (model / name).read_bytes()
        (model / name).write_bytes(before[:-2] + bytes([before[-2] ^ 1]) + before[-1:])
        assert changed_files(model) == [name]
        capsys.readouterr()
        assert main(["verify", str(model)]) == 3
        assert name in capsys.readouterr().err
        (model / name).write_bytes(before)
    (model / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert main(["run", str(model), "Hi", "-n", "1"]) == 0, "made to be edited: told, and not refused"
    assert "generation_config.json is not as it was written" in capsys.readouterr().err
    (model / "tokenizer.json").unlink()
    assert main(["verify", str(model)]) == 3
    (model / "notes.txt").write_text("mine")
    assert main(["verify", str(model), "--accept"]) == 0 and main(["verify", str(model)]) == 0
    with pytest.raises(OutputError, match=r"notes\.txt, which edge-lfm did not make"):
        check_output(model, None, force=True)
    (model / LIST).unlink()
    capsys.readouterr()
    assert main(["verify", str(model)]) == 0
    assert "no checksums" in capsys.readouterr().out


def test_bits_of_the_padding_are_checked(demo: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(demo["int4"], model)
    raw = bytearray((model / "model.safetensors").read_bytes())
    with PackedModel(model) as packed:
        padding = [t for t in packed.file.file.tensors.values() if t.name.startswith("padding.")]
    for info in (padding[0], padding[-1]):
        raw[info.end - 1] ^= 4
        (model / "model.safetensors").write_bytes(raw)
        with PackedModel(model) as packed:
            assert packed.verify() == [info.name]
        raw[info.end - 1] ^= 4


def test_a_config_that_was_changed_is_not_loaded(demo: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(demo["int4"], model)
    raw = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(raw | {"norm_eps": 0.01}))
    for verb in (["run", str(model), "Hi"], ["inspect", str(model)]):
        assert main(verb) == 3
    assert main(["verify", str(model), "--accept"]) == 0 and main(["inspect", str(model)]) == 0


def test_a_damaged_demo_model_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "cache_folder", lambda: tmp_path)
    folder = packed_demo("int4")
    sound = snapshot(folder)
    for name, at in (("model.safetensors", -5000), ("tokenizer.json", 100), ("config.json", 3)):
        raw = bytearray(sound[name])
        raw[at] ^= 1
        (folder / name).write_bytes(raw)
        assert packed_demo("int4") == folder and snapshot(folder) == sound
    for name in ("chat_template.jinja", "model.safetensors", "config.json"):
        (folder / name).unlink()
        assert packed_demo("int4") == folder and snapshot(folder) == sound
    inode = (folder / "config.json").stat().st_ino
    assert packed_demo("int4") == folder and (folder / "config.json").stat().st_ino == inode, "a sound one is kept"


def test_nothing_stays_in_the_temporary_folder(tmp_path: Path) -> None:
    """Where the cache cannot be written to, the demo model lives as long as the process."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cache").write_text("a file")
    code = """
import sys
from pathlib import Path
from edge_lfm import demo
demo.cache_folder = lambda: Path(sys.argv[1])
folder = demo.packed_demo("int4")
print(folder == demo.packed_demo("int4"), (folder / "config.json").exists())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.stdout.split() == ["True", "True"], done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []
