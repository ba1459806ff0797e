"""The embedded demo model and its drafter: where their checkpoints lie, and their packed forms in the user's cache.

They are packed by the same code as any others, in about a second, once.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from edge_lfm.errors import EdgeLfmError, OutputError
from edge_lfm.export.onnx import write_onnx
from edge_lfm.export.source import open_source
from edge_lfm.formats.file_list import changed_files
from edge_lfm.kernels.load.library import source_hash
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.locks import alone_in
from edge_lfm.model.onnx_model import GRAPH
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.paths import cache_folder
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE

DRAFTER = "demo"
"""The name of the demo model's drafter."""


def demo_checkpoint() -> Path:
    """The folder of the demo model's checkpoint (bf16, hub layout)."""
    return Path(__file__).parent / "demo_model"


def demo_drafter() -> Path:
    """The folder of the checkpoint of the demo model's drafter (bf16, as drafters are published)."""
    return Path(__file__).parent / "demo_drafter"


def packed_demo(recipe: str = DEFAULT_RECIPE) -> Path:
    """The folder of the packed demo model, made on first use."""
    source = demo_checkpoint()
    parts = ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja")
    folder = _cached(f"demo-{recipe}", recipe, [source / part for part in parts])
    return _made_once(folder, _is_whole_model, lambda to: convert(source, to, find_recipe(recipe), force=True))


def packed_demo_drafter(recipe: str = "int8") -> Path:
    """The folder of the demo model's packed drafter, made on first use. It fits every packing of that model."""
    source, target = demo_drafter(), packed_demo()
    parts = [source / part for part in ("model.safetensors", "config.json")]
    folder = _cached(f"demo-drafter-{recipe}", recipe, [*parts, target / "config.json"])

    def pack(to: Path) -> None:
        convert(source, to, find_recipe(recipe), force=True, target=target)

    return _made_once(folder, _is_whole_drafter, pack)


def exported_demo() -> Path:
    """The folder of the demo model as an ONNX graph, made on first use."""
    packed = packed_demo("int4")

    def export(folder: Path) -> None:
        with open_source(packed) as source:
            write_onnx(source, folder, force=True)

    return _made_once(packed.with_name(f"{packed.name}-onnx"), _is_whole_graph, export)


def _cached(name: str, recipe: str, parts: Sequence[Path]) -> Path:
    """Where that lies which is packed of these files; another encoder or recipe packs it anew."""
    digest = hashlib.sha256(f"{LAYOUT_VERSION}{source_hash()}{find_recipe(recipe)}".encode())
    for part in parts:
        digest.update(part.read_bytes())
    return cache_folder() / "models" / f"{name}-{digest.hexdigest()[:16]}"


def _made_once(folder: Path, is_whole: Callable[[Path], bool], make: Callable[[Path], object]) -> Path:
    """`folder`, made if it is missing or damaged: by one process, while others that want it wait."""
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(folder.parent, wait=True):
            if not is_whole(folder):
                if folder.exists():  # in our own cache, under a hash of what it is made of
                    shutil.rmtree(folder)
                make(folder)
    except (OSError, OutputError):  # a cache that cannot be written to must not stop a run
        folder = _temporary_folder() / folder.name
        if not is_whole(folder):
            make(folder)
    return folder


@cache
def _temporary_folder() -> Path:
    """A folder that goes with this process."""
    folder, owner = Path(tempfile.mkdtemp(prefix="edge-lfm-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not at the end of a fork
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _is_whole_model(folder: Path) -> bool:
    """Whether every byte of a packed model is as it was written; 10 ms for the demo model."""
    return _is_whole(folder, PackedModel)


def _is_whole_drafter(folder: Path) -> bool:
    return _is_whole(folder, PackedDrafter)


def _is_whole(folder: Path, kind: type[PackedModel]) -> bool:
    try:
        with kind(folder) as packed:
            return changed_files(folder) == [] and not packed.verify()
    except EdgeLfmError:
        return False


def _is_whole_graph(folder: Path) -> bool:
    try:
        return (folder / GRAPH).exists() and changed_files(folder) == []
    except EdgeLfmError:
        return False
