"""The checklist of a release: what each step refuses, and what a bill of materials says of wheels."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from edge_lfm.devices.licences import licence_list, read_wheel
from edge_lfm.errors import EdgeLfmError

sys.path.insert(0, str(ROOT / "tools"))
from release import tree
from release.build import checksums, write_sums
from release.checklist import ReleaseError, Step, go_through, table

sys.path.remove(str(ROOT / "tools"))

ENTRY = """# Changelog

## [1.2.0] - 2026-12-01

Packed layout: 4.

### Breaking changes

- None.

## [1.1.0] - 2026-11-01
"""


def wheel(folder: Path, name: str, metadata: str, *more: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}\n"
        )
        for inner in more:
            file.writestr(inner, "text")
    return path


def test_every_step_is_tried_and_what_needs_a_failed_one_is_left() -> None:
    def fail() -> str:
        raise ReleaseError("no wheel")

    steps = [Step("a", fail), Step("b", lambda: "found"), Step("c", fail, needs=("a",)), Step("d", fail, needs=("c",))]
    outcomes = go_through([*steps, Step("e", lambda: "too", needs=("b",))])
    assert [(o.name, o.state) for o in outcomes] == [
        ("a", "FAIL"),
        ("b", "ok"),
        ("c", "left"),
        ("d", "left"),
        ("e", "ok"),
    ]
    assert "| a | FAIL | no wheel |" in table(outcomes) and "| c | left | needs a |" in table(outcomes)


def test_a_changelog_s_first_entry() -> None:
    assert tree.check_entry(ENTRY, "1.2.0", 4) == "1.2.0 of 2026-12-01, packed layout 4"
    for old, new, words in (
        ("[1.2.0]", "[1.3.0]", "the first entry of CHANGELOG.md must be ## [1.2.0]"),
        ("2026-12-01", "unreleased", "needs a date in place of 'unreleased'"),
        (" - 2026-12-01", "", "needs a date"),
        ("layout: 4", "layout: 3", "must say 'Packed layout: 4.'"),
        ("### Breaking changes", "### Changed", "no '### Breaking changes'"),
    ):
        with pytest.raises(ReleaseError) as caught:
            tree.check_entry(ENTRY.replace(old, new), "1.2.0", 4)
        assert words in str(caught.value)


def test_our_own_changelog_lacks_a_date_at_most() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("- unreleased", "- 2026-12-01", 1)
    assert tree.check_entry(text, tree.project_version(ROOT), tree.LAYOUT_VERSION)


def test_the_versions_document_knows_the_newest_layout() -> None:
    assert f"\n| {tree.LAYOUT_VERSION} | " in (ROOT / "docs/versions.md").read_text(encoding="utf-8")


def test_checksums_are_those_of_the_files_and_name_no_earlier_list(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "SHA256SUMS").write_text("an older list", encoding="ascii")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4's of no bytes
    assert write_sums(tmp_path, None) == "1 files, not signed: no KEY was given"
    assert (tmp_path / "SHA256SUMS").read_text(encoding="ascii") == f"{empty}  empty\n"
    assert checksums(tmp_path)["empty"] == empty


def test_licences_are_read_from_wheels(tmp_path: Path) -> None:
    license_text = "License: " + "long words " * 20
    made = [
        wheel(tmp_path, "b", "License-Expression: MIT\nLicense: other", "b-1.0.dist-info/licenses/LICENSE", "b/x.py"),
        wheel(tmp_path, "a", f"{license_text}\nClassifier: License :: OSI Approved :: BSD License", "a/COPYING.txt"),
        wheel(tmp_path, "c", "License: Zlib", "c/license.py"),
        wheel(tmp_path, "d", ""),
    ]
    assert licence_list(made) == (
        "a 1.0: BSD License\n    a/COPYING.txt\n"
        "b 1.0: MIT\n    b-1.0.dist-info/licenses/LICENSE\n"
        "c 1.0: Zlib\n"
        "d 1.0: no licence stated\n"
    )
    (tmp_path / "broken.whl").write_bytes(b"PK")
    with zipfile.ZipFile(tmp_path / "nameless.whl", "w") as nameless:
        nameless.writestr("n-1.0.dist-info/METADATA", "Metadata-Version: 2.4\n")
    for path in (tmp_path / "broken.whl", tmp_path / "absent.whl", tmp_path / "nameless.whl"):
        with pytest.raises(EdgeLfmError, match="is not a wheel"):
            read_wheel(path)


def test_a_bill_of_materials(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib")
    from release.bill import bill

    own = wheel(tmp_path, "edge_lfm", "License-Expression: Apache-2.0")
    parts = [wheel(tmp_path, "b", "License-Expression: MIT"), wheel(tmp_path, "a", "License: BSD License")]
    text = bill(own, [own, *parts], 1_800_000_000)
    read = json.loads(text)
    assert text == bill(own, [own, *parts], 1_800_000_000)
    assert read["metadata"]["timestamp"] == "2027-01-15T08:00:00+00:00"
    assert read["metadata"]["component"]["purl"] == "pkg:pypi/edge-lfm@1.0"
    licences = {part["name"]: part["licenses"][0]["license"] for part in read["components"]}
    assert licences == {"a": {"name": "BSD License"}, "b": {"id": "MIT"}}
    hashes = checksums(tmp_path)
    assert all(
        part["hashes"][0]["content"] == hashes[f"{part['name']}-1.0-py3-none-any.whl"] for part in read["components"]
    )
    with pytest.raises(ReleaseError, match="states no licence"):
        bill(own, [wheel(tmp_path, "d", "")], 0)
