"""A quantization that is interrupted at any moment, and resumed: what comes out is what an undisturbed run makes.

EDGE_LFM_KILLS sets how many kills are tried (default 8; `make test-resume` tries 100).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import EdgeLfmError, OutputError
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.quantize import convert as convert_module
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.output import JOURNAL
from edge_lfm.quantize.recipe import find_recipe

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("EDGE_LFM_KILLS", "8"))
# Small enough a model that it would be done before the first sync, so syncs come at once, and tensors slowly.
SLOWLY = """
import sys, time
from edge_lfm.quantize import convert, journal
journal.SYNC_SECONDS = 0.0
pack = convert.pack_tensor
def slow(*args):
    time.sleep(0.004)
    return pack(*args)
convert.pack_tensor = slow
from edge_lfm.cli.main import main
sys.exit(main(["quantize", *sys.argv[1:]]))
"""


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", SLOWLY, str(demo_checkpoint()), "-o", str(output), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def stage(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def units(output: Path) -> int:
    """Lines of the journal so far: one says what is made, then one for each tensor that is done."""
    journal = stage(output) / JOURNAL
    return len(journal.read_bytes().splitlines()) if journal.exists() else 0


def wait_for_units(output: Path, process: subprocess.Popen[str], count: int = 3) -> None:
    """Until the journal has more than `count` lines, or the program has ended."""
    while process.poll() is None and units(output) <= count:
        time.sleep(0.002)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "m"
    convert(demo_checkpoint(), folder, find_recipe("balanced"), threads=1)
    return content(folder)


def test_kills_at_random_moments(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Kills from before the first tensor to after the last, counted from when the journal is there."""
    rng, resumed, killed, left = random.Random(7), 0, 0, False
    output = tmp_path / "m"
    while killed < KILLS:
        before = units(output)
        process = start(output, "--resume", "--threads", str(rng.randint(1, 3)))
        if killed % 4:  # every fourth kill may come while the program still starts
            wait_for_units(output, process, before)
        try:
            _, err = process.communicate(timeout=rng.uniform(0.0, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
            _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err
        if output.exists():  # done before its kill: whole, and the next run begins anew
            assert content(output) == undisturbed
            shutil.rmtree(output)
            left = False
            continue
        assert process.returncode == -signal.SIGKILL
        try:
            PackedModel(stage(output)).close()
        except EdgeLfmError:
            pass
        else:  # killed between its last tensor and its new name
            assert (stage(output) / "model.safetensors").read_bytes() == undisturbed["model.safetensors"]
        left = units(output) > 1
        resumed += left
    assert resumed >= KILLS // 4
    report = convert(demo_checkpoint(), output, find_recipe("balanced"), resume=True)
    assert content(output) == undisturbed
    assert report.resumed_tensors > 0 or not left
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(("kill", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_leave_what_can_be_resumed(
    kill: signal.Signals, code: int, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    output = tmp_path / "m"
    process = start(output)
    wait_for_units(output, process)
    process.send_signal(kill)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert "--resume goes on" in err and "Traceback" not in err
    with pytest.raises(OutputError, match="unfinished run"):
        convert(demo_checkpoint(), output, find_recipe("balanced"))
    report = convert(demo_checkpoint(), output, find_recipe("balanced"), resume=True)
    assert report.resumed_tensors >= 3
    assert content(output) == undisturbed


def test_what_was_finished_before_memory_ran_out(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, pack = tmp_path / "m", convert_module.pack_tensor
    packed = 0

    def until_the_tenth(*arguments: object) -> object:
        nonlocal packed
        packed += 1
        if packed >= 10:  # the pool may have begun the eleventh before it hears of the tenth
            raise MemoryError
        return pack(*arguments)

    monkeypatch.setattr("edge_lfm.quantize.journal.SYNC_SECONDS", 0.0)
    monkeypatch.setattr(convert_module, "pack_tensor", until_the_tenth)
    with pytest.raises(MemoryError):
        convert(demo_checkpoint(), output, find_recipe("balanced"), threads=1)
    monkeypatch.undo()
    assert not output.exists()
    report = convert(demo_checkpoint(), output, find_recipe("balanced"), resume=True)
    assert report.resumed_tensors == 9
    assert content(output) == undisturbed


def test_an_unfinished_run_is_resumed_by_the_same_request_only(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    output = tmp_path / "m"
    process = start(output)
    wait_for_units(output, process)
    for options in ({"resume": True}, {"force": True}, {}):
        with pytest.raises(OutputError, match="another edge-lfm"):
            convert(demo_checkpoint(), output, find_recipe("balanced"), **options)
    process.kill()
    process.communicate()
    with pytest.raises(OutputError, match="another source, recipe"):
        convert(demo_checkpoint(), output, find_recipe("int8"), resume=True)
    other = tmp_path / "other"
    other.mkdir()
    for path in demo_checkpoint().iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    raw = bytearray((other / "model.safetensors").read_bytes())
    raw[-1] ^= 1  # the header stays the same
    raw[int.from_bytes(raw[:8], "little") + 8] ^= 1
    (other / "model.safetensors").write_bytes(raw)
    with pytest.raises(OutputError, match="another source, recipe"):
        convert(other, output, find_recipe("balanced"), resume=True)
    convert(demo_checkpoint(), output, find_recipe("balanced"), force=True)
    assert content(output) == undisturbed


def test_damage_to_an_unfinished_file_is_found(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A tensor whose bytes changed after its journal line was written is packed again; so is one with a torn line."""
    output = tmp_path / "m"
    process = start(output)
    wait_for_units(output, process, 10)
    process.kill()
    process.communicate()
    weights, journal = stage(output) / "model.safetensors", stage(output) / JOURNAL
    raw = bytearray(weights.read_bytes())
    raw[70_000:80_000] = bytes(10_000)
    weights.write_bytes(raw)
    text = journal.read_text(encoding="utf-8")
    journal.write_text(text[:-20], encoding="utf-8")
    known = len(text.splitlines()) - 2
    report = convert(demo_checkpoint(), output, find_recipe("balanced"), resume=True)
    assert 0 < report.resumed_tensors < known
    assert content(output) == undisturbed


def test_resume_without_an_unfinished_run_just_runs(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    convert(demo_checkpoint(), tmp_path / "m", find_recipe("balanced"), resume=True, threads=3)
    assert content(tmp_path / "m") == undisturbed
    stored = json.loads(undisturbed["config.json"])["quantization_config"]
    assert stored["recipe"] == "balanced" and stored["provenance"]["calibration"] is None
