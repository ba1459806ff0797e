"""An evaluation as text for a terminal, and as one HTML page with tables and plots. Knows only how results look."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from edge_lfm.cli.fit_recipes import frontier
from edge_lfm.errors import MissingExtraError, OutputError
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.shape import Shape

_LABELS = {
    "perplexity": "perplexity",
    "reference_perplexity": "perplexity of the reference",
    "log_ratio": "mean ln ratio",
    "kl_mean": "KL divergence, mean",
    "kl_median": "KL divergence, median",
    "kl_99": "KL divergence, 99th percentile",
    "kl_999": "KL divergence, 99.9th percentile",
    "kl_max": "KL divergence, largest",
    "same_top": "same top token",
    "rms_dp": "RMS difference of p",
    "greedy_agreed_median": "greedy tokens agreed on, median",
    "greedy_same": "greedy text the same",
}
Q4_0_KL = 0.02525
"""Of the demo model on seven texts (docs/quality.md): the unit of recipes' losses."""
_ERRORS = {"log_ratio": "log_ratio_error", "kl_mean": "kl_error"}


def describe(result: dict[str, Any]) -> str:
    """Lines for a terminal."""
    lines = [f"{result['model']}" + (f" against {result['against']}" if result["against"] else "")]
    for name, figures in result["texts"].items():
        lines.append(f"{name}: {figures['tokens']} tokens in {figures['windows']} windows")
        lines += [f"  {label:34} {value}" for label, value in _rows(figures)]
    if "tasks" in result:
        lines += _task_lines(result["tasks"])
    return "\n".join(lines)


def write_report(path: Path, result: dict[str, Any], folder: Path) -> None:
    """The page.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    parts = [f"<h1>{html.escape(Path(result['model']).name)}</h1>"]
    if result["against"]:
        parts.append(f"<p>against {html.escape(result['against'])}</p>")
    for name, figures in result["texts"].items():
        parts += [f"<h2>{html.escape(name)}</h2>", _table(_rows(figures))]
        if figures.get("routing_same"):
            parts += [_picture(_plot_routing(figures)), _picture(_plot_use(figures["expert_use"]))]
    measured = [figures["kl_mean"] for figures in result["texts"].values() if "kl_mean" in figures]
    if measured:
        with PackedModel(folder) as model:
            own = measure_sizes(model.shape, list(model.tensors.values())).bytes_per_token
            picture = _plot_frontier(model.shape, own, float(np.mean(measured)))
        parts += ["<h2>among the recipes</h2>", _picture(picture)]
    if "tasks" in result:
        rows = [(k, _task_row(v)) for k, v in result["tasks"]["by_task"].items()]
        parts += ["<h2>tasks</h2>", _table([("", "\n".join(_task_lines(result["tasks"])[: -len(rows)])), *rows])]
    report = folder / "quantization_report.json"
    if report.exists():
        stored = json.loads(report.read_text(encoding="utf-8"))
        if stored.get("relative_rmse_by_layer"):
            parts += ["<h2>rounding error</h2>", _picture(_plot_error(stored["relative_rmse_by_layer"]))]
    style = "body{font:16px sans-serif;max-width:60em;margin:2em auto}td{padding:.1em 1em}img{max-width:100%}"
    page = f"<!doctype html><meta charset=utf-8><title>edge-lfm eval</title><style>{style}</style>{''.join(parts)}\n"
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", hint="choose another file") from None


def _rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, label in _LABELS.items():
        if key in figures:
            error = f" ± {figures[_ERRORS[key]]:.5f}" if key in _ERRORS and _ERRORS[key] in figures else ""
            rows.append((label, f"{figures[key]:.5g}{error}"))
    if figures.get("routing_same"):
        same, overlap = (float(np.mean(list(figures[k].values()))) for k in ("routing_same", "routing_overlap"))
        rows.append(("same set of experts", f"{same:.4f} (experts in common {overlap:.4f})"))
    return rows


def _task_lines(tasks: dict[str, Any]) -> list[str]:
    lines = [f"tasks: {tasks['accuracy']:.2%} of {tasks['samples']}, mean of tasks {tasks['mean_of_tasks']:.2%}"]
    if "paired" in tasks:
        p = tasks["paired"]
        lines.append(
            f"  reference {tasks['reference_accuracy']:.2%}, mean of tasks {tasks['reference_mean_of_tasks']:.2%}; "
            f"{p['lost']} lost, {p['won']} won, p = {p['p']:.2f}"
        )
    if tasks["not_judged"]:
        lines.append(f"  {tasks['not_judged']} with code not judged: --run-code runs what the model wrote, confined")
    return lines + [f"  {name:12} {_task_row(entry)}" for name, entry in tasks["by_task"].items()]


def _task_row(entry: dict[str, Any]) -> str:
    reference = f" (reference {entry['reference']:.1%})" if "reference" in entry else ""
    return f"{entry['accuracy']:6.1%} of {entry['n']}{reference}"


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{html.escape(a)}<td>{html.escape(b)}" for a, b in rows)
    return f"<table>{cells}</table>"


def _axes(title: str, across: str, up: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("--report needs matplotlib", extra="plot") from None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=across, ylabel=up)
    return figure, axes


def _plot_frontier(shape: Shape, own_bytes: int, kl: float) -> Any:
    """The recipes, as they read and lose, and this model among them."""
    figure, axes = _axes("Divergence by bytes per token", "GB read per token", "KL divergence, mean")
    for name, (nbytes, loss) in frontier(shape).items():
        axes.plot(nbytes / 1e9, loss * Q4_0_KL, "o", color="gray")
        axes.annotate(f" {name}", (nbytes / 1e9, loss * Q4_0_KL), fontsize=8)
    axes.plot(own_bytes / 1e9, kl, "D", color="tab:red", label="this model on these texts")
    axes.plot([], [], "o", color="gray", label="recipes: demo model on seven texts, with a calibration")
    axes.set_yscale("log")
    axes.legend(fontsize=8)
    return figure


def _plot_error(by_layer: dict[str, dict[str, float]]) -> Any:
    figure, axes = _axes("Rounding error by layer and tensor class", "layer", "relative RMSE")
    for kind, layers in by_layer.items():
        axes.plot([int(n) for n in layers], list(layers.values()), "o-", markersize=3, label=kind)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _plot_routing(figures: dict[str, Any]) -> Any:
    figure, axes = _axes("Routing agreement with the reference", "layer", "share of tokens")
    layers = [int(n) for n in figures["routing_same"]]
    axes.plot(layers, list(figures["routing_same"].values()), "o-", label="same set of experts")
    axes.plot(layers, list(figures["routing_overlap"].values()), "o-", label="experts in common")
    axes.set_ylim(top=1)
    axes.legend()
    return figure


def _plot_use(use: dict[int, list[float]]) -> Any:
    figure, axes = _axes("Use of experts", "expert", "layer")
    width = max(len(row) for row in use.values())
    grid = np.array([[*row, *[0.0] * (width - len(row))] for row in use.values()])
    image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0)
    axes.set_yticks(range(len(use)), [str(n) for n in use], fontsize=7)
    figure.colorbar(image, label="share of choices")
    return figure


def _picture(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
