"""The documentation as pages that can be read offline: python tools/documentation.py, then build/site/index.html.

Gathers the documents as they lie in the repository, so that their links hold, adds pages that are generated (the index
of decisions, the API from docstrings), and lets MkDocs build them. A link that leads nowhere ends the build. To search
in them, serve them, as browsers do not search pages from a disk: python -m http.server -d build/site.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import edge_lfm

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "build/site-source"
_OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE")
_LINK = re.compile(r"\]\((?!\w+://|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def gather() -> None:
    """All documents, and the files that they link to, in the folders of the repository."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    pages = [*(ROOT / name for name in _OUTSIDE), *sorted((ROOT / "docs").rglob("*.md"))]
    waiting, seen = list(pages), set(pages)
    while waiting:
        path = waiting.pop()
        copy = SOURCE / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copyfile(path, copy)
            continue
        text = path.read_text(encoding="utf-8")
        copy.write_text(_to_pages(path, text), encoding="utf-8")
        for link, _ in _LINK.findall(text):
            target = (path.parent / link).resolve()
            if target.is_file() and target not in seen:
                seen.add(target)
                waiting.append(target)


def _to_pages(path: Path, text: str) -> str:
    """Links to a folder lead to its index."""

    def page(match: re.Match[str]) -> str:
        target = path.parent / match[1]
        return f"]({match[1].rstrip('/')}/README.md{match[2] or ''})" if target.is_dir() else match[0]

    return _LINK.sub(page, text)


def decisions() -> str:
    """The index of decisions: number, title, day of the first commit, state."""
    rows = []
    for path in sorted((ROOT / "docs/adr").glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        number, title = re.match(r"# (\d+)\. (.+)", text).groups()  # type: ignore[union-attr]
        replaced = re.search(r"^Superseded by (\[ADR \d+\]\([^)]+\))", text, re.MULTILINE)
        state = f"superseded by {replaced[1]}" if replaced else "accepted"
        rows.append(f"| {number} | [{title}]({path.name}) | {_day(path)} | {state} |")
    return "\n".join(["# Decisions", "", "| number | decision | date | state |", "|---|---|---|---|", *rows, ""])


def _day(path: Path) -> str:
    command = ["git", "-C", str(ROOT), "log", "--diff-filter=A", "--follow", "--format=%as", "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.split() or ["not committed yet"])[-1]


def interface() -> str:
    """A page for mkdocstrings: every public name of the package."""
    names = sorted((name for name in edge_lfm.__all__ if name[0].isupper()), key=str.lower)
    parts = (("Models and answers", [n for n in names if not n.endswith("Error")]),
             ("Errors", [n for n in names if n.endswith("Error")]),
             ("Functions", sorted(n for n in edge_lfm.__all__ if n[0].islower())))  # fmt: skip
    lines = ["# Python interface", "", "Made from the docstrings. How the names belong together: [Python](api.md).", ""]
    for title, members in parts:
        lines += [f"## {title}", "", *(f"::: edge_lfm.{name}\n    options: {{heading_level: 3}}\n" for name in members)]
    return "\n".join(lines)


def main() -> None:
    gather()
    (SOURCE / "docs/adr/README.md").write_text(decisions(), encoding="utf-8")
    (SOURCE / "docs/interface.md").write_text(interface(), encoding="utf-8")
    # With --quiet nothing would be counted as a warning, and no warning would end the build.
    build = ["mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    sys.exit(subprocess.run([sys.executable, "-m", *build], check=False).returncode)


if __name__ == "__main__":
    main()
