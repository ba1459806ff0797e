"""Which floor imports which, as the picture of docs/architecture.md: python tools/import_graph.py. A test keeps them
equal."""

from __future__ import annotations

import re
from pathlib import Path

import grimp

FLOORS = (
    ("cli",), ("server",), ("api",), ("measure", "demo"), ("export", "pull"), ("engine", "quantize"), ("model", "text"),
    ("memory",), ("devices",), ("kernels", "formats", "machine"), ("architectures",), ("shape",),
    ("paths", "locks", "checking"), ("errors",),
)  # fmt: skip
DOCUMENT = Path(__file__).parent.parent / "docs" / "architecture.md"
MARKS = ("<!-- import graph: python tools/import_graph.py -->\n", "<!-- end of import graph -->")


def picture() -> str:
    """A table of floors, upper ones first: what each one imports of this package."""
    graph = grimp.build_graph("edge_lfm")
    known = [name for floor in FLOORS for name in floor]
    imports: dict[str, set[str]] = {name: set() for name in known}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            importer, target = _floor(module), _floor(imported)
            if importer in imports and target in imports and importer != target:
                imports[importer].add(target)
    rows = [f"| `{name}` | {', '.join(n for n in known if n in imports[name]) or 'nothing'} |" for name in known]
    return "\n".join(["| floor | imports |", "|---|---|", *rows, ""])


def _floor(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def placed(document: str) -> str:
    """The document with the picture as it is now."""
    first, last = MARKS
    return re.sub(f"{first}.*{last}", lambda _: f"{first}{picture()}{last}", document, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(placed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
