"""What a conversation leaves behind: conv inputs and the KV cache of every layer, and its position.

The KV cache is float16 or int8 and grows by doubling, up to the context. Layouts: `kernels/layout.py`, STATE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.config import ModelConfig
from edge_lfm.errors import ContextOverflowError, DoesNotFitError, UsageError
from edge_lfm.kernels.layout import STATE

_FIRST_CAPACITY = 256
KV_DTYPES = ("float16", "int8")


def check_kv_dtype(name: str) -> str:
    """`name`, if it is a dtype of KV caches.

    Raises:
        UsageError: it is not.
    """
    if name not in KV_DTYPES:
        raise UsageError(f"unknown KV cache type '{name}'", hint=f"choose one of {', '.join(KV_DTYPES)}")
    return name


@dataclass(frozen=True)
class Checkpoint:
    """What `State.go_back` needs of the state before a step."""

    position: int
    conv: dict[int, NDArray[np.float32]]


class State:
    """The state of one sequence. `capacity`: positions that the caches have room for, a multiple of 16."""

    def __init__(self, config: ModelConfig, context: int, kv_dtype: str = "float16") -> None:
        self.config, self.context = config, context
        self.kv_int8 = check_kv_dtype(kv_dtype) == "int8"
        self.position = 0
        self.capacity = 0
        self.history_rows = 0
        self._history: dict[int, NDArray[np.float32]] = {}
        layers = range(config.num_hidden_layers)
        conv_shape = (max(1, config.conv_L_cache - 1), config.hidden_size)
        self.conv = {n: np.zeros(conv_shape, np.float32) for n in layers if not config.is_attention(n)}
        self.caches: dict[tuple[int, str], NDArray[Any]] = {}  # (layer, field of its record)
        self.records = np.zeros(config.num_hidden_layers, STATE)
        for n, array in self.conv.items():
            self.records["conv"][n] = array.ctypes.data
        self.reserve(min(_FIRST_CAPACITY, context))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (*self.conv.values(), *self.caches.values()))

    def reserve(self, positions: int) -> None:
        """Make room for `positions` positions in all.

        Raises:
            ContextOverflowError: that is more than the context.
            DoesNotFitError: there is no memory for it.
        """
        if positions > self.context:
            raise ContextOverflowError(
                f"{positions} tokens do not fit into the context of {self.context}",
                hint="shorten the prompt, or load the model with a larger context",
            )
        if positions <= self.capacity:
            return
        wanted = min(max(positions, 2 * self.capacity), self.context)
        capacity = -(-wanted // 16) * 16
        try:
            for n in range(self.config.num_hidden_layers):
                if self.config.is_attention(n):
                    self._grow(n, capacity)
        except MemoryError:
            raise DoesNotFitError(
                f"no memory for a KV cache of {capacity} positions", hint="use a smaller context, or an int8 cache"
            ) from None
        self.capacity = capacity

    def reset(self) -> None:
        """Forget everything; keep the room."""
        self.position = 0
        for array in self.conv.values():
            array[:] = 0

    def keep_history(self, rows: int) -> None:
        """From now on, note the conv inputs of every step of at most `rows` tokens, for `go_back`."""
        if rows > self.history_rows:
            self.history_rows = rows
            for n in self.conv:
                self._history[n] = np.zeros((rows, self.config.hidden_size), np.float32)
                self.records["history"][n] = self._history[n].ctypes.data

    def checkpoint(self) -> Checkpoint:
        """The conv state and the position as they are now; keys and values need no copy."""
        return Checkpoint(self.position, {n: array.copy() for n, array in self.conv.items()})

    def go_back(self, before: Checkpoint, kept: int) -> None:
        """Undo the last step but for its first `kept` tokens; `before` was taken before it."""
        assert before.position <= before.position + kept <= self.position
        for n, array in self.conv.items():
            inputs = np.concatenate([before.conv[n], self._history[n][:kept]])
            array[:] = inputs[len(inputs) - len(array) :]
        self.position = before.position + kept

    def _grow(self, n: int, capacity: int) -> None:
        """Larger caches for layer n, with what the old ones hold."""
        kv, width = self.config.num_key_value_heads, self.config.head_dim
        kept = np.int8 if self.kv_int8 else np.float16
        fields: dict[str, tuple[tuple[int, ...], type]] = {
            "keys": ((kv, capacity // 16, width, 16), kept),
            "values": ((kv, capacity, width), kept),
        }
        if self.kv_int8:
            fields |= {"key_scales": ((kv, capacity), np.float32), "value_scales": ((kv, capacity), np.float32)}
        for field, (shape, dtype) in fields.items():
            new: NDArray[Any] = np.zeros(shape, dtype)
            old = self.caches.get((n, field))
            if old is not None:
                new[:, : old.shape[1]] = old
            self.caches[n, field] = new
            self.records[field][n] = new.ctypes.data
