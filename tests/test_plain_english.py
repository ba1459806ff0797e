"""Plain technical English: sentences of under 20 words on average, and none of over 35, in documents that hold it."""

from __future__ import annotations

import statistics

import pytest
from conftest import ROOT
from sentences import sentences, words

MEAN, LONGEST = 20, 35
HELD = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/abilities.md",
    "docs/adr/0002-sixteen-rows-everywhere.md",
    "docs/adr/0005-a-quantization-can-be-killed.md",
    "docs/adr/0013-an-answer-is-a-generator-of-feeds.md",
    "docs/adr/0015-options-are-typed.md",
    "docs/adr/0016-one-description-of-a-model.md",
    "docs/adr/0023-a-lost-machine-is-a-new-round.md",
    "docs/api.md",
    "docs/architecture.md",
    "docs/boards.md",
    "docs/cli.md",
    "docs/cluster.md",
    "docs/devices.md",
    "docs/drafting.md",
    "docs/formats.md",
    "docs/releasing.md",
    "docs/server.md",
    "docs/tutorials/agents.md",
    "docs/tutorials/application.md",
    "docs/tutorials/calibration.md",
    "docs/tutorials/first-answer.md",
    "docs/tutorials/pi5.md",
    "docs/versions.md",
)
"""Documents that hold it. Not all do yet: write one anew, and put it here; none is taken out."""


def test_sentences_are_told_apart() -> None:
    text = (
        "# A title. Not counted as two\n\nOne fact here (see [the page](a.md)). Another `x. Y`, by C. elegans!\n"
        "goes on. \n\n- A point\n- Two points. Three\n\n| a table | is. No |\n\n"
        "    edge-lfm run. Code\n\n```\nMore. Code\n```\n"
    )
    assert sentences(text) == [
        "One fact here (see the page).", "Another `x`, by C elegans! goes on.", "A point", "Two points.", "Three",
    ]  # fmt: skip
    assert words("Two-way 4.5 `x`, it's (one) 3/4.") == 6
    assert words("- : ()") == 0


@pytest.mark.parametrize("document", HELD)
def test_a_document_has_short_sentences(document: str) -> None:
    found = sentences((ROOT / document).read_text(encoding="utf-8"))
    assert [sentence for sentence in found if words(sentence) > LONGEST] == []
    assert not found or statistics.mean(map(words, found)) < MEAN
