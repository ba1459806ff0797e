"""What the keys and values of a sequence take: of layers that see all positions, and of those that see a window.

A sliding layer keeps its newest positions in a ring: those that the first token of a step sees, and the step's own.
Places that a sequence shall go back to later have a copy of the window before them, as they have of the conv inputs.
Where such copies are large, the ring is longer instead, and a place is good for as long as the ring holds its window.
Where all that is no less than the whole context, the layer keeps every position, and places need no copy.
Pure: sizes only. Knows no arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_lfm.kernels.spec.layout import SCORE_BLOCK
from edge_lfm.shape import Attention, LatentAttention, Shape

MAX_CHECKPOINTS, MIN_CHECKPOINTS = 64, 4
MAX_CHECKPOINT_BYTES = 64 << 20
"""Of one sequence's together, above the least number. The 24B has 64 of half a megabyte each, less than the keys and
values of 1,600 tokens; LFM3-1.7B has 20 of 3.3 MB, as much as those of 5,300."""
REACH_BYTES = 32 << 20
"""By so much a ring is longer where places have no copies. Trinity Mini's then holds 1,024 positions beside a window of
2,047: 0.69 GB for 32,768 tokens. Four copies took 0.40 GB more than rings without them."""
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

        0: they keep all, or there are no such layers.
        """
        if not self.shape.window or self.kv_dtype == "float32":
            return 0
        return self._ring if self._ring + self._copied < self.context else 0

    @property
    def checkpoints(self) -> int:
        """How many places to go back to a sequence keeps."""
        return self._places(self._window if self.ring and self.has_copies else 0)

    @property
    def has_copies(self) -> bool:
        """Whether `MAX_CHECKPOINT_BYTES` have room for the least number of places with copies of their windows."""
        return self._affordable(self._window) >= MIN_CHECKPOINTS

    @property
    def token_bytes(self) -> int:
        """Keys and values of a position in the layers that keep all."""
        every = sum(position_bytes(a, self.kv_dtype) for a in self.shape.keeping.values())
        return every - self._sliding_bytes if self.ring else every

    @property
    def nbytes(self) -> int:
        """Of the whole context: keys and values, and the windows of places to go back to."""
        bounded = self.ring + self._copied if self.ring else 0
        return self.context * self.token_bytes + bounded * self._sliding_bytes

    @property
    def _window(self) -> int:
        """Positions before a token that it sees."""
        return self.shape.window - 1

    @property
    def _ring(self) -> int:
        reach = 0 if self.has_copies else REACH_BYTES // max(1, self._sliding_bytes)
        return (-(-(self._window + self.chunk) // SCORE_BLOCK) + reach // SCORE_BLOCK) * SCORE_BLOCK

    @property
    def _copied(self) -> int:
        """Positions of sliding layers in the copies of all places."""
        return self._places(self._window) * self._window if self.has_copies else 0

    def _places(self, copied: int) -> int:
        """Places to go back to, if each has a copy of so many positions of sliding layers."""
        return min(MAX_CHECKPOINTS, max(MIN_CHECKPOINTS, self._affordable(copied)))

    def _affordable(self, copied: int) -> int:
        conv_bytes = sum(4 * max(1, conv.taps - 1) * self.shape.hidden for conv in self.shape.convs.values())
        return MAX_CHECKPOINT_BYTES // max(1, conv_bytes + copied * self._sliding_bytes)

    @property
    def _sliding_bytes(self) -> int:
        return sum(position_bytes(a, self.kv_dtype) for a in self.shape.keeping.values() if a.window is not None)


def kv_read_bytes(shape: Shape, depth: int, kv_dtype: str) -> int:
    """Keys and values that the token behind `depth` others reads."""
    return sum(min(depth, a.window or depth) * position_bytes(a, kv_dtype) for a in shape.keeping.values())


def position_bytes(attention: Attention | LatentAttention, kv_dtype: str) -> int:
    """One key and one value of every kv head; of latents, what stands for them."""
    value_bytes, scale_bytes = _VALUE_AND_SCALE_BYTES[kv_dtype]
    values = attention.key_width + attention.value_width
    return attention.kv_heads * (values * value_bytes + 2 * scale_bytes)
