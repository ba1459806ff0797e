"""The plots of `edge-lfm bench --plot`: a roofline, or, when experts are paged, their hit rates by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_lfm.errors import MissingExtraError, OutputError
from edge_lfm.measure.bench import BenchReport, in_cache


def draw(reports: list[BenchReport], path: Path) -> None:
    """Write a PNG: of the paged reports if there are any, else the roofline.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("--plot needs matplotlib", extra="plot") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    paged = [report for report in reports if report.storage_gbps is not None]
    (_hits_by_layer if paged else _roofline)(figure.add_subplot(), paged or reports)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {error}", hint="give a writable .png file") from None


def _roofline(axes: Any, reports: list[BenchReport]) -> None:
    """Operations per byte of weights on x, GOPS on y, one roof per number of threads.

    A test's runs are a point at their median and a bar from the slowest to the fastest; a point above the roof says
    that a cache gave the weights.
    """
    for report in reports:
        intensities = [2.0**n for n in range(13)]
        row = report.rows()[0]
        roof = [min(row["int8_gops"], x * row["read_gbps"]) for x in intensities]
        (line,) = axes.loglog(intensities, roof, label=f"limit of memory and int8, {report.threads} threads")
        for test in report.rows():
            tokens = 1 if test["bound"] == "bandwidth" else int(test["test"][2:])
            intensity = tokens * report.ops_per_token / report.bytes_per_token
            least, work, most = (
                test[name] * report.ops_per_token / 1e9 for name in ("min", "tokens_per_second", "max")
            )
            axes.errorbar(intensity, work, [[work - least], [most - work]], fmt="o", color=line.get_color())
            where = ", in cache" if in_cache(test) else ""
            axes.annotate(f" {test['test']}@{test['depth']}{where}", (intensity, work), fontsize=8)
    axes.errorbar([], [], [], fmt="o", color="gray", label="median of the runs, slowest to fastest")
    axes.set(xlabel="operations per byte of weights read", ylabel="GOPS", title=f"{reports[0].model}, {reports[0].isa}")
    axes.legend()
    axes.grid(True, which="both", alpha=0.3)


def _hits_by_layer(axes: Any, reports: list[BenchReport]) -> None:
    """Layers that have experts on x, hit rate on y, a line for each test of decode and each budget."""
    for report in reports:
        for result in report.results:
            if result.paging is not None and result.test.startswith("tg"):
                uses = result.paging.hits + result.paging.misses
                label = f"{result.test}@{result.depth}, {report.ram}, {report.threads} threads"
                axes.plot(result.paging.hits / uses.clip(1), "o-", markersize=3, label=label)
    axes.set(xlabel="layer that has experts", ylabel="experts in memory", title=reports[0].model, ylim=(0, 1.02))
    axes.legend()
    axes.grid(True, alpha=0.3)
