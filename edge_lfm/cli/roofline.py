"""The roofline plot of `edge-lfm bench --plot`: tests against the limits measured in the same run."""

from __future__ import annotations

from pathlib import Path

from edge_lfm.engine.bench import BenchReport
from edge_lfm.errors import MissingExtraError, OutputError


def draw(reports: list[BenchReport], path: Path) -> None:
    """Write a PNG: operations per byte of weights on x, GOPS on y, one roof per number of threads.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise MissingExtraError("--plot needs matplotlib", hint="pip install 'edge-lfm[plot]'") from None
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for report in reports:
        intensities = [2.0**n for n in range(13)]
        row = report.rows()[0]
        roof = [min(row["int8_gops"], x * row["read_gbps"]) for x in intensities]
        (line,) = axes.loglog(intensities, roof, label=f"limit, {report.threads} threads")
        for test in report.rows():
            tokens = 1 if test["bound"] == "bandwidth" else int(test["test"][2:])
            intensity = tokens * report.ops_per_token / report.bytes_per_token
            work = test["tokens_per_second"] * report.ops_per_token / 1e9
            axes.plot(intensity, work, "o", color=line.get_color())
            axes.annotate(f" {test['test']}@{test['depth']}", (intensity, work), fontsize=8)
    axes.set(xlabel="operations per byte of weights read", ylabel="GOPS", title=f"{reports[0].model}, {reports[0].isa}")
    axes.legend()
    axes.grid(True, which="both", alpha=0.3)
    try:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {error}", hint="give a writable .png file") from None
