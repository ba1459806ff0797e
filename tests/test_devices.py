"""Profiles, estimates, detection and the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edge_lfm.architectures import read_shape
from edge_lfm.cli import doctor_facts
from edge_lfm.cli.fit_recipes import Choice, best_recipe
from edge_lfm.cli.parsers.fit import MAX_LOSS
from edge_lfm.devices.estimate import Demand, Fit, Machine, does_not_fit, estimate
from edge_lfm.devices.profiles import find_device, profiles, read_profile
from edge_lfm.devices.targets import find_target
from edge_lfm.errors import UsageError
from edge_lfm.kernels.spec.isa import TIERS
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.machine.thermal import temperatures
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.caches import kv_read_bytes
from edge_lfm.memory.plan import Wishes, plan_memory
from edge_lfm.model.demand import demand_of
from edge_lfm.model.plan import plan_tensors
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import LIKE_SOURCE, find_recipe
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE

pytestmark = pytest.mark.slow


def demand(name: str) -> Demand:
    shape = read_shape(family_config(name))
    return demand_of(shape, plan_tensors(shape, find_recipe("balanced").schemes))


def test_every_profile_is_sound() -> None:
    tiers = {tier.name for tier in TIERS}
    assert {"rpi4", "rpi5", "rk3588", "orin-nano", "apple-m1", "laptop-avx2", "laptop-avx512"} <= set(profiles())
    for device in profiles().values():
        assert find_target(device.target).isa.name in tiers and device.sources and 0 < device.prefill_share < 1
        assert min(device.storage.values()) > 0.02 and max(device.storage.values()) < 10


def test_devices_by_id() -> None:
    assert find_device("rpi5-8g").memory_gb == (8.0,) and find_device("RPI5").id == "rpi5-16g"
    for bad in ("rpi9", "rpi5-7g", "", "rpi5-8", "../rpi5"):
        with pytest.raises(UsageError):
            find_device(bad)


GOOD: dict[str, Any] = {
    "name": "x", "cores": 4, "core": "y", "target": "neon", "memory_gb": [4], "read_gbps": 1.0, "int8_gops": 1.0,
    "prefill_share": 0.3, "page_kib": 4, "storage": {"sd": 0.1}, "default_storage": "sd", "notes": "", "sources": ["z"],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"cores": "4"},
        {"read_gbps": -1.0},
        {"storage": {}},
        {"sources": []},
        {"more": 1},
        {"memory_gb": []},
        {"isa": None},
    ],
)
def test_malformed_profiles(change: dict[str, Any]) -> None:
    read_profile("good", GOOD)
    with pytest.raises(UsageError):
        read_profile("bad", GOOD | change)
    with pytest.raises(UsageError):
        read_profile("bad", {key: value for key, value in GOOD.items() if key not in change and key != "name"})


def test_the_24b_on_boards() -> None:
    """The sizes are those of the quantizer; more memory or faster storage never makes it slower."""
    big = demand("lfm2-24b-a2b")
    assert 12.8e9 < big.file_bytes < 12.9e9 and big.experts == 64
    assert 0.5e9 < big.trunk_bytes < 0.6e9
    board = Machine(10.0, 614.0, 0.25, 0.45)

    def fit(memory: float, machine: Machine = board, name: str = "lfm2-24b-a2b") -> Fit:
        plan = plan_memory(
            read_shape(family_config(name)), demand(name), Budget(int(memory), stated=True), Wishes(context=4096)
        )
        return does_not_fit(plan.missing_bytes) if plan.missing_bytes else estimate(demand(name), machine, plan.kept)

    speeds = [fit(gigabytes * 1e9) for gigabytes in (1, 2, 4, 6, 8, 12, 16)]
    assert not speeds[0].fits and speeds[0].missing_bytes > 0 and speeds[-1].kept == 1.0
    rates = [speed.decode_tps for speed in speeds]
    assert rates == sorted(rates) and speeds[-1].bound == "memory bandwidth"
    assert fit(3.4e9, replace(board, storage_gbps=5.0)).decode_tps > fit(3.4e9).decode_tps
    missing = fit(1e9).missing_bytes
    assert fit(1e9 + missing).fits and not fit(1e9 + missing - 10).fits
    dense = fit(1e8, name="lfm2-1.2b")
    assert not dense.fits and dense.bound == "memory"


def edge_lfm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_fit_on_the_command_line(demo: dict[str, Path]) -> None:
    text = edge_lfm("fit", "lfm2-24b-a2b", "--device", "rpi5-8g").stdout
    assert "tok/s" in text and "source:" in text and "of 64 per layer" in text
    assert "after 8192 tokens" in text and "after 32768 tokens" in text
    small = edge_lfm("fit", "lfm2-24b-a2b", "--device", "rpi4-2g").stdout
    assert "does not fit" in small and " would do about " in small.split("does not fit")[1]
    found = json.loads(edge_lfm("fit", str(demo["int8"]), "--device", "rpi5-4g", "--json").stdout)
    assert found["fit"]["fits"] and found["fit"]["decode_tps"] > 100
    assert found["decode_tps_after"] == {}  # longer than this model's contexts
    here = json.loads(edge_lfm("fit", "lfm2-8b-a1b", "--json", "--ram", "3G").stdout)
    assert here["fit"]["kept"] < 1 and here["device"]["machine"]["read_gbps"] > 0.5
    named = ("lfm2-8b-a1b", "--device", "rpi5")
    for bad in (("absent",), (*named[:2], "x"), (*named, "--storage", "tape"), (*named, "--context", "0"),
                (*named, "--recipe", "x"), (named[0], "--storage", "x")):  # fmt: skip
        done = edge_lfm("fit", *bad)
        assert done.returncode in (2, 3) and "Traceback" not in done.stderr


def test_fit_chooses_the_recipe() -> None:
    """The fastest within the loss, of those that decode at the speed of memory; a recipe that was named stands."""

    def chosen(device: str, *more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(edge_lfm("fit", "lfm2-24b-a2b", "--device", device, "--json", *more).stdout)
        return found | {"by_name": {choice["recipe"]: choice for choice in found["recipes"]}}

    board = chosen("rpi5-8g")
    speeds = {name: choice["decode_tps"] for name, choice in board["by_name"].items()}
    within = [name for name, choice in board["by_name"].items() if choice["fits"] and choice["loss"] <= MAX_LOSS]
    assert speeds[board["recipe"]] >= 0.98 * max(speeds[name] for name in within)
    assert board["fit"]["decode_tps"] == speeds[board["recipe"]]
    strict = chosen("rpi5-8g", "--loss", "0.1")
    assert strict["recipe"] == "quality" and "loses more than 0.1" in strict["by_name"]["balanced"]["refused"]
    assert chosen("rpi5-8g", "--recipe", "int8")["recipes"] == []
    assert chosen("rpi5-8g", "--loss", "2")["recipe"] == "tiny" != chosen("laptop-avx2-16g", "--loss", "2")["recipe"]
    assert "decodes slower than memory on avx" in chosen("laptop-avx2-16g")["by_name"]["tiny"]["refused"]


def test_fit_knows_what_keeps_experts_as_published(tmp_path: Path) -> None:
    """gpt-oss's are MXFP4: what keeps them is listed with the loss of all else, and is the default."""

    def chosen(model: str | Path, *more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(edge_lfm("fit", str(model), "--device", "rpi5-16g", "--json", *more).stdout)
        return found | {"by_name": {choice["recipe"]: choice for choice in found["recipes"]}}

    named = chosen("gpt-oss-20b", "--loss", "0.3")
    kept = {name for name, choice in named["by_name"].items() if choice["kept"]}
    assert named["recipe"] == LIKE_SOURCE and kept == {LIKE_SOURCE, "mxfp4"}
    losses = {name: choice["loss"] for name, choice in named["by_name"].items()}
    assert losses["mxfp4"] < losses[LIKE_SOURCE] < losses["balanced"] and losses["mxfp4"] <= losses["int8"]
    text = edge_lfm("fit", "gpt-oss-20b", "--device", "rpi5-16g").stdout
    assert text.count("experts as published") == 2 and "without --recipe" in text
    config = family_config("gpt-oss-20b")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert chosen(tmp_path)["by_name"].keys() == named["by_name"].keys()
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "quantization_config"}))
    assert not any(choice["kept"] for choice in chosen(tmp_path)["recipes"])


def test_the_best_recipe_of_a_table() -> None:
    def choice(name: str, loss: float, speed: float, fits: bool = True, refused: str = "") -> Choice:
        return Choice(name, loss, 1, speed, 1.0, fits, refused)

    nearly = [choice("a", 0.1, 9.9), choice("b", 0.4, 10.0), choice("c", 0.5, 20.0, refused="slow")]
    assert best_recipe(nearly) == "a"
    assert best_recipe([choice("a", 0.1, 0.0, fits=False), choice("b", 0.4, 1.0)]) == "b"
    assert best_recipe([choice("a", 0.1, 0.0, fits=False)]) == DEFAULT_RECIPE
    kept = [replace(choice(LIKE_SOURCE, 0.3, 5.0), kept=True), choice("b", 0.5, 6.0)]
    assert best_recipe(kept) == LIKE_SOURCE
    assert best_recipe([replace(kept[0], refused="slow"), kept[1]]) == "b"
    assert best_recipe([replace(choice, fits=False) for choice in kept]) == LIKE_SOURCE


def test_devices_and_the_doctor() -> None:
    assert "rpi5-8g" in edge_lfm("devices").stdout
    assert json.loads(edge_lfm("devices", "--json").stdout)["rpi5"]["cores"] == 4
    found = json.loads(edge_lfm("devices", "--detect", "--json").stdout)
    assert found["threads"] >= 1 and found["read_gbps"] > 0.5 and found["int8_gops"] > 1
    done = edge_lfm("doctor", "--json")
    lines = json.loads(done.stdout)
    told = {line["what"]: line["value"] for line in lines}
    wanted = "version system processor kernels sources cache folders threads memory limits environment packages"
    assert done.returncode == 0 and told.keys() >= set(wanted.split())
    assert f"packed layout {LAYOUT_VERSION}," in told["sources"] and f"numpy {version('numpy')}" in told["packages"]
    assert all(line["state"] == "ok" or line["remedy"] for line in lines)


def test_the_doctor_tells_settings_and_no_secrets() -> None:
    variables = {"EDGE_LFM_ISA": "avx2", "EDGE_LFM_API_KEY": "swordfish", "EDGE_LFM_THREADS": "2", "HOME": "/root"}
    told = doctor_facts.environment(variables)
    assert told == "EDGE_LFM_API_KEY=(hidden) EDGE_LFM_ISA=avx2 EDGE_LFM_THREADS=2"
    assert doctor_facts.environment({}) == "no variables set"


def test_the_doctor_tells_the_control_groups_that_limit(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\n", encoding="ascii")
    for file, words in (("memory.max", "2000000000"), ("memory.high", "max"), ("cpu.max", "150000 100000")):
        (group / file).write_text(f"{words}\n", encoding="ascii")
    first, *files = doctor_facts.limits(tmp_path).split("; ")
    assert first == f"2.00 GB by the memory limit of the control group {group}"
    assert files == [f"{group}/memory.max: 2000000000", f"{group}/cpu.max: 150000 100000"]


def test_temperatures(tmp_path: Path) -> None:
    for n, (kind, value) in enumerate((("cpu", "48500\n"), ("gpu", "broken"))):
        (tmp_path / f"thermal_zone{n}").mkdir()
        (tmp_path / f"thermal_zone{n}/type").write_text(kind, encoding="ascii")
        (tmp_path / f"thermal_zone{n}/temp").write_text(value, encoding="ascii")
    assert temperatures(tmp_path) == {"0:cpu": 48.5}
    assert temperatures(tmp_path / "absent") == {}


def test_keys_and_values_are_read_as_far_as_a_layer_looks() -> None:
    """10 layers of 8 kv heads of 64 values in the 24B; in LFM3 a layer that sees 256 positions reads no more."""
    whole = read_shape(family_config("lfm2-24b-a2b"))
    assert kv_read_bytes(whole, 8192, "float16") == 10 * 8192 * 2 * 8 * 64 * 2
    windowed = read_shape(family_config("lfm3-1.7b"))
    far, near = (kv_read_bytes(windowed, depth, "float16") for depth in (8192, 8191))
    full = sum(a.window is None for a in windowed.attentions.values())
    assert 0 < full < len(windowed.attentions) and far - near == full * 2 * 4 * 128 * 2
