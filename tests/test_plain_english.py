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
    "docs/adr/0001-kernels-are-object-code.md",
    "docs/adr/0002-sixteen-rows-everywhere.md",
    "docs/adr/0003-the-team-sleeps-between-steps.md",
    "docs/adr/0004-four-bits-are-a-codebook.md",
    "docs/adr/0005-a-quantization-can-be-killed.md",
    "docs/adr/0006-paged-experts-live-in-slots.md",
    "docs/adr/0007-reuse-is-by-prefix.md",
    "docs/adr/0008-a-bundle-is-unpacked-not-installed.md",
    "docs/adr/0009-the-codebooks-levels-have-seven-bits.md",
    "docs/adr/0010-many-tokens-lie-in-lanes.md",
    "docs/adr/0011-the-codebooks-levels-have-six-bits.md",
    "docs/adr/0012-a-row-says-whose-it-is.md",
    "docs/adr/0013-an-answer-is-a-generator-of-feeds.md",
    "docs/adr/0014-one-table-of-weight-formats.md",
    "docs/adr/0015-options-are-typed.md",
    "docs/adr/0016-one-description-of-a-model.md",
    "docs/adr/0017-one-memory-plan.md",
    "docs/adr/0018-schemas-are-rewritten.md",
    "docs/adr/0019-threads-that-wait-fall-asleep.md",
    "docs/adr/0020-steps-are-shared.md",
    "docs/adr/0021-forms-of-calls-are-told-by-marks.md",
    "docs/adr/0022-three-bits-are-a-codebook-with-four-shifts.md",
    "docs/adr/0023-a-lost-machine-is-a-new-round.md",
    "docs/adr/0024-two-bits-and-a-half-are-pairs.md",
    "docs/adr/0025-a-drafter-looks-on.md",
    "docs/adr/0026-shared-experts-are-a-dense-ffn.md",
    "docs/adr/0027-a-screen-has-a-bound.md",
    "docs/adr/0028-sliding-layers-keep-a-ring.md",
    "docs/adr/0029-mxfp4-is-kept-bit-for-bit.md",
    "docs/adr/0030-a-form-of-texts-has-frames.md",
    "docs/adr/0031-spans-are-merged-in-order.md",
    "docs/adr/0032-latents-are-attended-to-as-they-are-kept.md",
    "docs/adr/0033-a-release-is-built-twice.md",
    "docs/adr/0035-queries-are-rounded-for-int8-keys.md",
    "docs/adr/0037-amx-multiplies-one-group-at-a-time.md",
    "docs/api.md",
    "docs/architecture.md",
    "docs/boards.md",
    "docs/cli.md",
    "docs/cluster.md",
    "docs/devices.md",
    "docs/drafting.md",
    "docs/formats.md",
    "docs/models.md",
    "docs/paging.md",
    "docs/performance.md",
    "docs/quality.md",
    "docs/releasing.md",
    "docs/server.md",
    "docs/tutorials/agents.md",
    "docs/tutorials/application.md",
    "docs/tutorials/calibration.md",
    "docs/tutorials/first-answer.md",
    "docs/tutorials/pi5.md",
    "docs/versions.md",
    "edge_lfm/demo_model/README.md",
)
"""All documents of today. A new one comes here when it holds; none is taken out."""


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
