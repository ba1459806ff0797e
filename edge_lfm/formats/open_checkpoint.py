"""Opening whatever a quantizer can read. Knows which kind a path is, and nothing else."""

from __future__ import annotations

from pathlib import Path

from edge_lfm.formats.checkpoint import FolderCheckpoint, HubCheckpoint
from edge_lfm.formats.gguf import is_gguf
from edge_lfm.formats.gguf_checkpoint import GgufCheckpoint


def open_checkpoint(path: Path) -> HubCheckpoint:
    """A checkpoint's folder, or a GGUF file. Errors as of the classes."""
    return GgufCheckpoint(path) if is_gguf(path) else FolderCheckpoint(path)
