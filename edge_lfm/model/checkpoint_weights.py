"""A checkpoint's tensors by their canonical names: every spelling in, one spelling out.

Canonical are the names of `model/plan.py`. Knows how transformers fuses experts, and that some checkpoints leave the
prefix `model.` out; knows nothing of how weights are used.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ModelFileError, UnsupportedModelError
from edge_lfm.formats import mxfp4
from edge_lfm.formats.checkpoint import HubCheckpoint
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.kernels.spec.schemes import Scheme
from edge_lfm.kernels.spec.tiles import definition
from edge_lfm.model.latent_weights import cuts_of
from edge_lfm.model.plan import PackedTensor
from edge_lfm.shape import Shape

HEAD = "lm_head.weight"
_UNTIED = ", and config.json does not say that the embedding is the head (tie_word_embeddings)"
_QUANTIZED = (".qweight", ".qzeros", ".scales", ".g_idx", ".absmax", ".weight_packed", ".weight_scale", ".input_scale")
"""How names end that other tools write: GPTQ, AWQ, MLX, bitsandbytes, compressed-tensors, modelopt."""
_EXPERT = re.compile(r".*\.feed_forward\.experts\.(\d+)\.(w1|w2|w3)\.(weight|bias)")


class CheckpointWeights:
    """Checks every tensor against the plan when made; then reads them one at a time.

    Raises:
        UnsupportedModelError: tensors are missing, misshapen or unknown (the first five are named).
    """

    def __init__(self, checkpoint: HubCheckpoint, shape: Shape, tensors: list[PackedTensor]) -> None:
        self.checkpoint, self.shape = checkpoint, shape
        self._prefixed = any(name.startswith("model.") for name in checkpoint.names)
        self._in_turn, names = checkpoint.rows_in_turn, checkpoint.names
        self._cuts = {name: cut for name, cut in cuts_of(shape).items() if cut.source == name or name not in names}
        drafting = checkpoint.drafting_layers(len(shape.layers))
        self._drafting = drafting if self._prefixed else tuple(at.removeprefix("model.") for at in drafting)
        problems, used = [], set()
        for tensor in tensors:
            for source in tensor.sources:
                stored, needed = self._stored(source.name, source.shape)
                there = checkpoint.tensor_shape(stored)
                used.add(stored)
                if there is None:
                    problems.append(f"{stored} is missing" + (_UNTIED if source.name == HEAD else ""))
                elif there != needed:
                    problems.append(f"{stored} is {list(there)}, config.json asks for {list(needed)}")
        problems += [f"{name} is unknown" for name in checkpoint.names if name not in used and not self._ignored(name)]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            hint = "do config.json and the weights belong together?"
            if foreign := next((name for name in checkpoint.names if name.endswith(_QUANTIZED)), None):
                shown = f"another tool has quantized these weights ({foreign}); {shown}"
                hint = "quantize from the original checkpoint"
            raise UnsupportedModelError(f"{checkpoint.path}: {shown}", hint=hint)

    def __call__(self, name: str) -> F32:
        """A tensor in its canonical shape, float32; one expert's part of a fused tensor."""
        stored, expert, part = self._locate(name)
        values = self.checkpoint.read(stored, expert)
        self.checkpoint.forget(stored, expert)  # what is read again comes from the page cache
        own: F32 = self._canonical(name, values, expert, part)
        return own

    def stored(self, name: str) -> NDArray[Any]:
        """A tensor in its canonical shape as it is stored: uint16 (bfloat16), float16 or float32; a view."""
        stored, expert, part = self._locate(name)
        own: NDArray[Any] = self._canonical(name, self.checkpoint.stored(stored, expert), expert, part)
        return own

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes that `stored` is made of."""
        stored, expert, part = self._locate(name)
        if expert is None:
            return self.checkpoint.raw(stored)
        blocked = self.checkpoint.kind(stored) == mxfp4.KIND
        values = self._blocks_of(stored, expert, part) if blocked else self.stored(name)
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def exact(self, name: str, scheme: Scheme) -> Any:
        """A matrix as the scheme keeps it, where its stored blocks can be taken over; None: it must be rounded."""
        stored, expert, part = self._locate(name)
        kind, shape = self.checkpoint.kind(stored), self.checkpoint.tensor_shape(stored)
        cut = self._cuts.get(name)
        if kind not in scheme.ggml or shape is None or (cut is not None and not cut.whole_rows):
            return None
        if expert is None:
            blocks, rows = self.checkpoint.raw(stored), int(np.prod(shape[:-1]))
            if cut is not None:
                blocks = cut.take(blocks.reshape(rows, -1))
                rows, blocks = len(blocks), blocks.reshape(-1)
        else:
            blocks = self._blocks_of(stored, expert, part)
            rows = len(blocks)
        return definition(scheme).from_ggml(blocks, kind, rows, shape[-1])

    def _blocks_of(self, stored: str, expert: int, part: str) -> NDArray[np.uint8]:
        """The rows of blocks of one matrix of an expert's part of a fused tensor, uint8 [rows, bytes]."""
        shape = self.checkpoint.tensor_shape(stored)
        assert shape is not None
        return self._part_of(self.checkpoint.raw(stored, expert).reshape(shape[1], -1), part, by_rows=True)

    def kind(self, name: str) -> str:
        """How a tensor is stored: BF16, F16, F32, or ggml's name of a quantized type."""
        return self.checkpoint.kind(self._locate(name)[0])

    def not_finite(self, name: str) -> ModelFileError:
        """The error of a tensor with NaN or infinity."""
        return self.checkpoint.not_finite(self._locate(name)[0])

    def forget(self, name: str) -> None:
        """Release a tensor's memory; of a fused one, the expert's part."""
        stored, expert, _ = self._locate(name)
        self.checkpoint.forget(stored, expert)

    def forget_bytes(self, name: str, first: int, last: int) -> None:
        """Release the memory of a part of a tensor's stored bytes, where it is a tensor by itself."""
        stored, expert, _ = self._locate(name)
        if expert is None and name not in self._cuts:
            self.checkpoint.forget_bytes(stored, first, last)

    def _locate(self, name: str) -> tuple[str, int | None, str]:
        """Where a canonical name is stored: tensor, index of the expert in it if it is fused, part."""
        stored = self.checkpoint.stored_name(name)
        if not self._prefixed:
            stored = stored.removeprefix("model.")
        match = _EXPERT.fullmatch(name)
        if match and stored not in self.checkpoint.names:
            expert, part = int(match[1]), match[2]
            base = stored.rpartition(f".{expert}.")[0]
            fused = f"{base}.{'down_proj' if part == 'w2' else 'gate_up_proj'}{'_bias' if match[3] == 'bias' else ''}"
            if fused in self.checkpoint.names:
                return fused, expert, part
        if name in self._cuts and stored not in self.checkpoint.names:
            stored = self._cuts[name].source
        return stored, None, ""

    def _stored(self, name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """The stored name of a canonical tensor, and the shape that it must have there."""
        stored, expert, part = self._locate(name)
        if expert is None:
            return stored, self._cuts[name].shape if name in self._cuts else shape
        rows, cols = shape[0] if part == "w2" else 2 * shape[0], shape[1:]
        return stored, (self.shape.experts, *((rows, *cols) if self._by_rows(stored) else (*cols, rows)))

    def _canonical(self, name: str, values: Any, expert: int | None, part: str) -> Any:
        """What was read of a stored tensor, as its canonical name means it."""
        if expert is not None:
            return self._part_of(values, part, self._by_rows(self._locate(name)[0]))
        return self._cuts[name].take(values) if name in self._cuts else values

    def _by_rows(self, stored: str) -> bool:
        """Whether rows come before columns in a tensor; blocks are of rows in any checkpoint."""
        return not self._in_turn or self.checkpoint.kind(stored) == mxfp4.KIND

    def _part_of(self, fused: NDArray[Any], part: str, by_rows: bool) -> NDArray[Any]:
        """One matrix, or bias, of an expert's part of a fused tensor: w1 lies over w3 or in turn with it, w2 by
        itself."""
        if self._in_turn:
            rows = fused if by_rows else fused.T
            return {"w1": rows[0::2], "w3": rows[1::2], "w2": rows}[part]
        half = len(fused) // 2
        return {"w1": fused[:half], "w3": fused[half:], "w2": fused}[part]

    def _ignored(self, name: str) -> bool:
        """A tied head may be stored as well, rotary frequencies are computed, and layers that draft are left out."""
        return (
            (name == HEAD and self.shape.tied)
            or name.endswith("rotary_emb.inv_freq")
            or name.startswith(self._drafting)
        )
