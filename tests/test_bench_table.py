"""What the table and the plot of `edge-lfm bench` say of limits."""

from __future__ import annotations

import pytest

from edge_lfm.cli.bench import _share
from edge_lfm.measure import bench


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


def test_the_roofline_says_what_its_points_are_and_which_came_from_a_cache() -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="needs the extra `plot`")
    from edge_lfm.cli.bench_plots import _roofline

    results = (
        bench.TestResult("pp16", 0, (1.0, 2.0, 4.0), 16, 10.0, 100.0),
        bench.TestResult("tg16", 0, (1.0, 1.1, 1.2), 16, 10.0, 100.0),
        bench.TestResult("tg32", 0, (0.1, 0.1, 0.1), 32, 10.0, 100.0),
    )
    report = bench.BenchReport("m", "all", "avx2", 2, 10**9 // 2, 10**9, 1, None, results)
    axes = figures.Figure().add_subplot()
    _roofline(axes, [report])
    assert [text.get_text() for text in axes.texts] == [" pp16@0", " tg16@0", " tg32@0, in cache"]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["limit of memory and int8, 2 threads", "median of the runs, slowest to fastest"]
