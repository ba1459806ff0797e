"""The page of `make proof`: tables and a picture, as HTML in one file and as Markdown to be posted."""

from __future__ import annotations

import html
import io
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = "make proof"
_STYLE = "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
_STYLE += "td,th{border:1px solid #999;padding:.3em .6em;text-align:left}svg{max-width:100%;height:auto}"


@dataclass(frozen=True)
class Proof:
    """What was measured. speeds: test -> for each round, tokens a second of edge-lfm and of llama.cpp."""

    shape: str
    formats: tuple[str, str]
    file_bytes: tuple[int, int]
    threads: int
    speeds: Mapping[str, list[tuple[float, float]]]
    peer: str
    commit: str
    day: str
    seconds: float
    load: float  # running programs for each processor, as an average of the minute before the first step
    machine: Mapping[str, str]


Table = list[tuple[str, ...]]


def speeds_table(proof: Proof) -> Table:
    """Medians of the rounds; the ratio is the median of each round's own, with the least and the greatest."""
    rows: Table = [("test", "edge-lfm, tok/s", "llama.cpp, tok/s", "ratio", "ratio of each round", "rounds")]
    for test, rounds in proof.speeds.items():
        ratios = [ours / theirs for ours, theirs in rounds]
        medians = [f"{statistics.median(side):,.1f}" for side in zip(*rounds, strict=True)]
        each = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append((test, *medians, f"{statistics.median(ratios):.2f}", each, str(len(rounds))))
    return rows


def facts_table(proof: Proof) -> Table:
    """What was compared, where and how."""
    sizes = [f"{nbytes / 1e9:.2f} GB" for nbytes in proof.file_bytes]
    return [
        ("what", "value"),
        ("shape", f"{proof.shape}, random weights"),
        ("edge-lfm", f"recipe {proof.formats[0]}, {sizes[0]}, commit {proof.commit}"),
        ("llama.cpp", f"{proof.formats[1]}, {sizes[1]}, from {proof.peer}, -march=native"),
        *proof.machine.items(),
        ("load before the start", f"{proof.load:.2f} programs for each processor"),
        ("command", f"{COMMAND}, {proof.day}, {proof.seconds / 60:.1f} minutes in all"),
    ]


NOTES = (
    "Both engines take turns within each round, so that a slow minute hits both.",
    "Each engine has the 4-bit format that it is used with. The formats differ in loss: docs/quality.md compares them.",
    "Random weights have the speed of real ones, and no meaning.",
)


_BUSY = 0.3


def warnings(proof: Proof) -> list[str]:
    """Why the figures should not be posted as they are."""
    found = []
    if proof.load > _BUSY:
        found.append(
            "Other programs kept this machine busy, which costs the engines unequally: end them, and measure again."
        )
    if min(map(len, proof.speeds.values())) == 1:
        found.append("There was time for one round only, which shows no spread.")
    return found


def markdown(proof: Proof) -> str:
    """The page as Markdown; the picture is proof.png beside it."""
    tables = []
    for rows in (speeds_table(proof), facts_table(proof)):
        lines = [f"| {' | '.join(row)} |" for row in rows]
        tables.append("\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]))
    notes = "\n".join(f"- {note}" for note in (*warnings(proof), *NOTES))
    return f"# {_title(proof)}\n\n{tables[0]}\n\n![speeds](proof.png)\n\n{tables[1]}\n\n{notes}\n"


def page(proof: Proof) -> str:
    """The page as HTML, with the picture inside."""
    tables = ["".join(f"<tr>{_cells(row, 'td' if n else 'th')}</tr>" for n, row in enumerate(rows))
              for rows in (speeds_table(proof), facts_table(proof))]  # fmt: skip
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in (*warnings(proof), *NOTES))
    title = html.escape(_title(proof))
    picture = io.StringIO()
    draw(proof).savefig(picture, format="svg")
    drawn = picture.getvalue()
    head = f'<meta charset="utf-8"/><title>{title}</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>'
        f"<body><h1>{title}</h1><table>{tables[0]}</table>{drawn[drawn.index('<svg') :]}"
        f"<table>{tables[1]}</table><ul>{notes}</ul></body></html>\n"
    )


def _cells(row: tuple[str, ...], kind: str) -> str:
    return "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row)


def _title(proof: Proof) -> str:
    return f"edge-lfm beside llama.cpp: {proof.shape} on {proof.machine.get('processor', 'this machine').split(',')[0]}"


def draw(proof: Proof) -> Any:
    """A figure: for each test the medians as bars, and a point for each round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, (test, rounds) in zip(figure.subplots(1, len(proof.speeds)), proof.speeds.items(), strict=True):
        sides = list(zip(*rounds, strict=True))
        axes.barh(["edge-lfm", "llama.cpp"], [statistics.median(side) for side in sides], color=["C0", "C7"])
        for y, side in enumerate(sides):
            axes.plot(side, [y] * len(side), "k.", markersize=4)
        axes.invert_yaxis()
        axes.set(title=test, xlabel="tokens a second", xlim=(0, None))
    return figure


def write_page(proof: Proof, folder: Path) -> None:
    (folder / "index.html").write_text(page(proof), encoding="utf-8")
    (folder / "proof.md").write_text(markdown(proof), encoding="utf-8")
    draw(proof).savefig(folder / "proof.png", dpi=120)
