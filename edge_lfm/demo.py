"""The embedded demo model: where its checkpoint lies, and its packed form in the user's cache.

It is packed by the same code as any other checkpoint, in about a second, once.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from edge_lfm.errors import OutputError
from edge_lfm.export.onnx import write_onnx
from edge_lfm.export.source import open_source
from edge_lfm.kernels.load.library import source_hash
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.locks import alone_in
from edge_lfm.model.onnx_model import GRAPH
from edge_lfm.paths import cache_folder
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import DEFAULT_RECIPE, find_recipe


def demo_checkpoint() -> Path:
    """The folder of the demo model's checkpoint (bf16, hub layout)."""
    return Path(__file__).parent / "demo_model"


def packed_demo(recipe: str = DEFAULT_RECIPE) -> Path:
    """The folder of the packed demo model, made on first use."""
    source = demo_checkpoint()
    # Another encoder or recipe packs it anew.
    digest = hashlib.sha256(f"{LAYOUT_VERSION}{source_hash()}{find_recipe(recipe)}".encode())
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        digest.update((source / name).read_bytes())
    folder = cache_folder() / "models" / f"demo-{recipe}-{digest.hexdigest()[:16]}"
    return _made_once(folder, "config.json", lambda to: convert(source, to, find_recipe(recipe), force=True))


def exported_demo() -> Path:
    """The folder of the demo model as an ONNX graph, made on first use."""
    packed = packed_demo("int4")

    def export(folder: Path) -> None:
        with open_source(packed) as source:
            write_onnx(source, folder, force=True)

    return _made_once(packed.with_name(f"{packed.name}-onnx"), GRAPH, export)


def _made_once(folder: Path, mark: str, make: Callable[[Path], object]) -> Path:
    """`folder`, made if it has no file `mark`: by one process, while others that want it wait."""
    if (folder / mark).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(folder.parent, wait=True):
            if not (folder / mark).exists():
                make(folder)
    except (OSError, OutputError):  # a cache that cannot be written to must not stop a run
        folder = Path(tempfile.mkdtemp(prefix="edge-lfm-")) / folder.name
        make(folder)
    return folder
