"""The table of models in docs/models.md: python tools/model_table.py. A test keeps them equal."""

from __future__ import annotations

import re
from pathlib import Path

from edge_lfm.architectures import read_shape
from edge_lfm.memory.caches import CacheSizes
from edge_lfm.memory.scratch import CHUNK
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.quantize.families import PUBLISHED
from edge_lfm.quantize.recipe import find_recipe

DOCUMENT = Path(__file__).parent.parent / "docs" / "models.md"
MARKS = ("<!-- made by: python tools/model_table.py -->\n", "<!-- end -->")


def table() -> str:
    """A row for each published model, in the recipe `balanced`."""
    rows = ["| model | `model_type` | parameters | active | file | read per token | keys and values of a token |"]
    rows.append("|---|---|---|---|---|---|---|")
    schemes = find_recipe("balanced").schemes
    for name, raw in PUBLISHED.items():
        shape = read_shape(raw)
        sizes = measure_sizes(shape, plan_tensors(shape, schemes))
        numbers = (
            f"{sizes.parameters / 1e9:.2f} B",
            f"{sizes.active_parameters / 1e9:.2f} B" if shape.experts else "all",
            f"{sizes.file_bytes / 1e9:.2f} GB",
            f"{sizes.bytes_per_token / 1e9:.2f} GB",
            f"{CacheSizes(shape, shape.context, 'float16', CHUNK).token_bytes:,} B",
        )
        rows.append(f"| `{name}` | {raw['model_type']} | {' | '.join(numbers)} |")
    return "\n".join([*rows, ""])


def placed(document: str) -> str:
    """The document with the table as it is now."""
    first, last = MARKS
    return re.sub(f"{first}.*{last}", lambda _: f"{first}{table()}{last}", document, flags=re.DOTALL)


if __name__ == "__main__":
    DOCUMENT.write_text(placed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
