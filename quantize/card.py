"""The model card of a packed model, `README.md`: what it was made from and how, what it weighs, what was measured.

Made from the quantization report alone, and again with the figures of an evaluation when there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD = "README.md"


def model_card(report: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None) -> str:
    """The card's Markdown text.

    Args:
        report: the content of `quantization_report.json`.
        evaluation: what `edge-lfm eval --json` gives, if it was run.
    """
    provenance, size, recipe = report["provenance"], report["size"], report["recipe"]
    name = provenance["source"]
    lines = [
        "---",
        "library_name: edge-lfm",
        f"base_model: {name}",
        f"tags: [quantized, {recipe['name']}]",
        "---",
        f"# {name}, packed for edge-lfm as `{recipe['name']}`",
        "",
        f"{recipe['summary']}. {_licence(provenance.get('licence'))}",
        "",
        f"    edge-lfm chat MODEL --draft FOLDER    (MODEL: a packed {provenance['target']['name']})"
        if "target" in provenance
        else "    edge-lfm chat FOLDER",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {size['parameters']:,}, {size['active_parameters']:,} active |",
        f"| file | {size['file_bytes'] / 1e9:.2f} GB, {size['bits_per_weight']:.3f} bits per weight |",
        f"| read per token | {size['bytes_per_token'] / 1e9:.3f} GB |",
        *(f"| {key.replace('_', ' ')} | {_shown(provenance[key])} |" for key in provenance if provenance[key]),
        "",
        "| class | scheme | bits per weight | relative rounding error |",
        "|---|---|---|---|",
    ]
    for kind, error in report["relative_rmse_by_class"].items():
        schemes = recipe["schemes"]
        scheme = schemes.get(kind, "float32") + (f"; w2 {schemes[w2]}" if (w2 := f"{kind}_down") in schemes else "")
        lines.append(f"| {kind} | {scheme} | {size['bits_by_class'][kind]:.2f} | {error:.4f} |")
    if not report["feedback_kept"].endswith("of 0"):
        lines += ["", f"Error feedback was kept for {report['feedback_kept']} matrices."]
    lines += [f"\nWarning: {warning}" for warning in report["warnings"]]
    if evaluation is not None:
        lines += _measured(evaluation)
    return "\n".join(lines) + "\n"


def _licence(title: str | None) -> str:
    if title is None:
        return "The licence of the source model applies; no file of it came with the checkpoint."
    return f"The licence of the source model applies, and may limit who may use it, where and for what: {title}."


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key.replace('_', ' ')} {inner}" for key, inner in value.items())
    return f"`{value}`" if len(str(value)) == 64 else str(value)


def _measured(evaluation: Mapping[str, Any]) -> list[str]:
    """The section of measured figures."""
    against = f" against {evaluation['against'].rstrip('/').rpartition('/')[2]}" if evaluation["against"] else ""
    lines = ["", f"## Measured{against}", ""]
    if evaluation["texts"]:
        lines += [
            "| text | tokens | perplexity | reference | KL mean | 99 % | same top | same experts |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for name, measured in evaluation["texts"].items():
        cells = [name, str(measured["tokens"]), f"{measured['perplexity']:.3f}"]
        if "kl_mean" in measured:
            same = measured["routing_same"].values()
            cells += [
                f"{measured['reference_perplexity']:.3f}",
                f"{measured['kl_mean']:.5f} ± {measured['kl_error']:.5f}",
                f"{measured['kl_99']:.4f}",
                f"{measured['same_top']:.2%}",
                f"{sum(same) / len(same):.2%}" if same else "",
            ]
        lines.append("| " + " | ".join([*cells, *[""] * (8 - len(cells))]) + " |")
    tasks = evaluation.get("tasks")
    if tasks:
        lines += ["", f"Tasks: {tasks['accuracy']:.2%} of {tasks['samples']} samples"]
        if "paired" in tasks:
            paired = tasks["paired"]
            lines[-1] += (
                f"; reference {tasks['reference_accuracy']:.2%}, {paired['lost']} lost, {paired['won']} won "
                f"on the same questions (sign test p = {paired['p']:.2f})"
            )
        lines[-1] += "."
    return lines
