"""What the table of `edge-lfm bench` says of limits."""

from __future__ import annotations

import pytest

from edge_lfm.cli.bench import _share


@pytest.mark.parametrize(
    ("bound", "share", "said"),
    [
        ("bandwidth", 0.87, "87%"),
        ("bandwidth", 1.05, "105%"),
        ("bandwidth", 3.06, "in cache"),
        ("compute", 0.41, "41%"),
        ("storage", 0.99, "99%"),
        (None, 0.0, ""),
    ],
)
def test_a_share_above_what_memory_gives_is_told_as_a_cache(bound: str | None, share: float, said: str) -> None:
    assert _share({"bound": bound, "share_of_limit": share}) == said
