"""What an export is made of: the weights of a packed model or of a checkpoint, by their canonical names.

Knows no target format.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_lfm.formats.checkpoint import read_text_files
from edge_lfm.formats.gguf import is_gguf
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.schemes import FLOAT32, SCHEMES, Scheme
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights, is_packed
from edge_lfm.model.plan import TENSOR_CLASSES, PackedTensor, Schemes, plan_tensors
from edge_lfm.model.reference import Weights
from edge_lfm.shape import Shape


@dataclass(frozen=True)
class ExportSource:
    """An open model. `weights` gives float32, or integers with scales where they are stored so."""

    path: Path
    shape: Shape
    raw_config: dict[str, Any]
    text_files: dict[str, bytes]
    weights: Weights
    packed: bool
    tensors: dict[str, PackedTensor]
    """Which packed tensor a tensor of a checkpoint belongs to, by its canonical name."""

    def scheme(self, name: str) -> Scheme:
        """How a tensor is stored: float32 for all of a checkpoint."""
        return SCHEMES[self.tensors[name].scheme_of(name)]

    def values(self, name: str) -> F32:
        """A tensor as float32."""
        stored = self.weights(name)
        return stored.values() if isinstance(stored, Quantized) else stored


@contextmanager
def open_source(path: Path) -> Iterator[ExportSource]:
    """A packed model, a checkpoint or a GGUF file.

    Raises:
        EdgeLfmError: it cannot be read.
    """
    if not is_gguf(path) and path.is_dir() and is_packed(path):
        with PackedModel(path) as model:
            tensors = list(model.tensors.values())
            by_source = _by_source(tensors)
            unpacked = UnpackedWeights(model, integers=True)

            def weights(name: str) -> F32 | Quantized:
                value = unpacked(name)
                model.forget(by_source[name].name)  # an export reads every page once: none has to stay
                return value

            yield ExportSource(path, model.shape, model.raw_config, read_text_files(path), weights, True, by_source)
    else:
        with open_checkpoint(path) as checkpoint:
            shape = checkpoint.describe()
            tensors = plan_tensors(shape, Schemes("", dict.fromkeys(TENSOR_CLASSES, FLOAT32.name)))
            yield ExportSource(
                path,
                shape,
                checkpoint.raw_config,
                checkpoint.text_files,
                CheckpointWeights(checkpoint, shape, tensors),
                False,
                _by_source(tensors),
            )


def _by_source(tensors: list[PackedTensor]) -> dict[str, PackedTensor]:
    return {source.name: tensor for tensor in tensors for source in tensor.sources}
