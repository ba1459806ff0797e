"""The licence of a source: it goes with the packed model, and the model's card tells of it."""

from __future__ import annotations

from pathlib import Path

from conftest import GOLDEN_CASES, write_checkpoint

from edge_lfm.formats.checkpoint import licence_title
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

TEXT = "\n# SOME COMMUNITY LICENSE AGREEMENT\nThis agreement does not apply everywhere.\n"


def test_the_card_tells_what_the_licence_is(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in", GOLDEN_CASES["hunyuan"])
    (source / "LICENSE.txt").write_text(TEXT)
    convert(source, tmp_path / "out", find_recipe("int8"))
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == TEXT
    card = (tmp_path / "out" / "README.md").read_text()
    assert "may limit who may use it, where and for what: SOME COMMUNITY LICENSE AGREEMENT." in card
    with PackedModel(tmp_path / "out") as model:
        assert model.provenance["licence"] == "SOME COMMUNITY LICENSE AGREEMENT"


def test_a_source_without_one_is_told_as_that(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "in", GOLDEN_CASES["hunyuan"])
    convert(source, tmp_path / "out", find_recipe("int8"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "no file of it came with the checkpoint" in card


def test_the_title_is_the_first_line_that_says_something() -> None:
    assert licence_title({}) is None
    assert licence_title({"LICENSE": b"\n \n"}) is None
    assert licence_title({"LICENSE": b"\xff" * 500}) == "\ufffd" * 120
    assert licence_title({"LICENSE.md": b"# Apache\n", "License.txt": b"other"}) == "Apache"
