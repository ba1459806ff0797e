"""What the keys and values of a sequence take: of layers that see all positions, and of those that see a window.

A sliding layer keeps its newest positions in a ring: those that the first token of a step sees, and the step's own.
Places that a sequence shall go back to later have a copy of the window before them, as they have of the conv inputs.
Pure: sizes only. Knows no arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_lfm.kernels.spec.layout import SCORE_BLOCK
from edge_lfm.shape import Attention, Shape

MAX_CHECKPOINTS, MIN_CHECKPOINTS = 64, 4
MAX_CHECKPOINT_BYTES = 64 << 20
"""Of one sequence's together, above the least number. The 24B has 64 of half a megabyte each, less than the keys and
values of 1,600 tokens; LFM3-1.7B has 20 of 3.3 MB, as much as those of 5,300."""
_VALUE_AND_SCALE_BYTES = {"int8": (1, 4), "float16": (2, 0), "float32": (4, 0)}


@dataclass(frozen=True)
class CacheSizes:
    """The sizes of one sequence of up to `context` tokens, fed in steps of up to `chunk`.

    kv_dtype: float32 is onnxruntime's, whose graphs keep every position of every layer.
    """

    shape: Shape
    context: int
    kv_dtype: str
    chunk: int

    @property
    def ring(self) -> int:
        """Positions that sliding layers keep, in whole score blocks: attention finds each block in one piece.

        0: there are no such layers.
        """
        ring = -(-(self.shape.window - 1 + self.chunk) // SCORE_BLOCK) * SCORE_BLOCK
        return ring if self.shape.window and self.kv_dtype != "float32" else 0

    @property
    def token_bytes(self) -> int:
        """Keys and values that each further token of the context takes."""
        every = sum(position_bytes(a, self.kv_dtype) for a in self.shape.attentions.values())
        return every - self.sliding_bytes if self.ring else every

    @property
    def bounded_bytes(self) -> int:
        """What does not grow with the context: rings, and windows of places to go back to."""
        return min(self.ring, self.context) * self.sliding_bytes + self.checkpoints * self._window_bytes

    @property
    def nbytes(self) -> int:
        """Of the whole context."""
        return self.context * self.token_bytes + self.bounded_bytes

    @property
    def checkpoints(self) -> int:
        """How many places to go back to a sequence keeps."""
        conv_bytes = sum(4 * max(1, conv.taps - 1) * self.shape.hidden for conv in self.shape.convs.values())
        affordable = MAX_CHECKPOINT_BYTES // max(1, conv_bytes + self._window_bytes)
        return min(MAX_CHECKPOINTS, max(MIN_CHECKPOINTS, affordable))

    @property
    def _window_bytes(self) -> int:
        """Of the copy that goes with a place to go back to."""
        return min(self.shape.window - 1, self.context) * self.sliding_bytes if self.ring else 0

    @property
    def sliding_bytes(self) -> int:
        """Keys and values of a position in the layers that see a window."""
        return sum(position_bytes(a, self.kv_dtype) for a in self.shape.attentions.values() if a.window is not None)


def kv_read_bytes(shape: Shape, depth: int, kv_dtype: str) -> int:
    """Keys and values that the token behind `depth` others reads."""
    return sum(min(depth, a.window or depth) * position_bytes(a, kv_dtype) for a in shape.attentions.values())


def position_bytes(attention: Attention, kv_dtype: str) -> int:
    """One key and one value of every kv head."""
    value_bytes, scale_bytes = _VALUE_AND_SCALE_BYTES[kv_dtype]
    return 2 * attention.kv_heads * (attention.width * value_bytes + scale_bytes)
