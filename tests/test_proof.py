"""The page of `make proof`: a shape that fits, medians of rounds, and nothing that a page could take for markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, importing_from

pytest.importorskip("matplotlib", reason="needs matplotlib")
with importing_from(ROOT / "benchmarks"):
    import proof as proving
    from proof_page import Proof, markdown, page, speeds_table, warnings, write_page

GB = 10**9
LARGE = proving.Expected("large", True, 13 * GB, 100.0, 20.0)
SMALL = proving.Expected("small", True, GB, 200.0, 100.0)
PROOF = Proof(
    "lfm2-350m", ("balanced", "Q4_0"), (2 * GB, 3 * GB), 2,
    {"prefill of 512 tokens": [(300.0, 100.0), (200.0, 100.0), (400.0, 80.0)], "decode of 64 tokens": [(30.0, 20.0)]},
    "llama-cpp-python==0.3.36", "abc1234", "2026-12-01", 600.0, 0.1, {"processor": "<A & B>, 2 of 2 processors"},
)  # fmt: skip


def test_the_largest_shape_that_fits_memory_disk_and_time() -> None:
    # 26 GB at 100 MB/s, and two rounds of both: 3 (512 / 100 + 64 / 20) seconds ours, four times as many the peer's.
    assert LARGE.seconds(1e-8) == pytest.approx(260 + 2 * 5 * 3 * (5.12 + 3.2))
    assert proving.choose([LARGE, SMALL], 600, 1e-8, 100 * GB) is LARGE
    assert proving.choose([LARGE, SMALL], 500, 1e-8, 100 * GB) is SMALL
    assert proving.choose([LARGE, SMALL], 600, 1e-8, 20 * GB) is SMALL
    assert proving.choose([proving.Expected("large", False, GB, 1, 1), SMALL], 600, 1e-8, 100 * GB) is SMALL
    assert proving.choose([LARGE, SMALL], 1, 1e-8, 100 * GB) is SMALL  # too slow a machine for any: the smallest


def test_rounds_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def slow(*_: object) -> dict[str, float]:
        clock[0] += 50
        return {}

    monkeypatch.setattr(proving.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(proving, "measure_ours", slow)
    monkeypatch.setattr(proving, "measure_peer", slow)
    for end, rounds in ((1e9, proving.MOST_ROUNDS), (301, 3), (10, 1)):
        clock[0] = 0
        assert len(proving.run_rounds(Path(), Path(), Path(), 2, end)) == rounds


def test_ratios_are_those_of_rounds() -> None:
    rows = speeds_table(PROOF)
    assert rows[1] == ("prefill of 512 tokens", "300.0", "100.0", "3.00", "2.00 to 5.00", "3")
    assert rows[2] == ("decode of 64 tokens", "30.0", "20.0", "1.50", "1.50 to 1.50", "1")


def test_a_busy_machine_and_a_single_round_are_told() -> None:
    quiet = replace(PROOF, speeds={"decode of 64 tokens": [(30.0, 20.0), (31.0, 20.0)]})
    assert warnings(quiet) == []
    (busy,) = warnings(replace(quiet, load=4.0))
    assert "kept this machine busy" in busy and busy in markdown(replace(quiet, load=4.0))
    assert ["one round only" in told for told in warnings(PROOF)] == [True]


def test_a_page_in_one_file_and_the_same_in_markdown(tmp_path: Path) -> None:
    write_page(PROOF, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "proof.md", "proof.png"}
    body = ET.fromstring(page(PROOF).partition("\n")[2])
    cells = [cell.text for cell in body.iter("td")]
    assert "<A & B>, 2 of 2 processors" in cells and "2.00 to 5.00" in cells
    assert not [tag for tag in body.iter() if tag.tag in ("script", "link", "img")]
    text = (tmp_path / "proof.md").read_text(encoding="utf-8")
    assert "| prefill of 512 tokens | 300.0 | 100.0 | 3.00 | 2.00 to 5.00 | 3 |" in text and "commit abc1234" in text
