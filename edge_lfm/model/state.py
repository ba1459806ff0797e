"""What a conversation leaves behind: conv inputs and the KV cache of every layer, and its position.

The KV cache is float16 and grows by doubling, up to the context. Layouts: `kernels/layout.py`, STATE.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.config import ModelConfig
from edge_lfm.errors import ContextOverflowError, DoesNotFitError
from edge_lfm.kernels.layout import STATE

_FIRST_CAPACITY = 256


class State:
    """The state of one sequence. `capacity`: positions that the caches have room for, a multiple of 16."""

    def __init__(self, config: ModelConfig, context: int) -> None:
        self.config, self.context = config, context
        self.position = 0
        self.capacity = 0
        layers = range(config.num_hidden_layers)
        conv_shape = (max(1, config.conv_L_cache - 1), config.hidden_size)
        self.conv = {n: np.zeros(conv_shape, np.float32) for n in layers if not config.is_attention(n)}
        self.keys: dict[int, NDArray[np.float16]] = {}
        self.values: dict[int, NDArray[np.float16]] = {}
        self.records = np.zeros(config.num_hidden_layers, STATE)
        for n, array in self.conv.items():
            self.records["conv"][n] = array.ctypes.data
        self.reserve(min(_FIRST_CAPACITY, context))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays: list[NDArray[Any]] = [*self.conv.values(), *self.keys.values(), *self.values.values()]
        return sum(array.nbytes for array in arrays)

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
        config, width = self.config, self.config.head_dim
        kv = config.num_key_value_heads
        try:
            for n in range(config.num_hidden_layers):
                if config.is_attention(n):
                    keys = np.zeros((kv, capacity // 16, width, 16), np.float16)
                    values = np.zeros((kv, capacity, width), np.float16)
                    if self.capacity:
                        keys[:, : self.capacity // 16] = self.keys[n]
                        values[:, : self.capacity] = self.values[n]
                    self.keys[n], self.values[n] = keys, values
                    self.records["keys"][n], self.records["values"][n] = keys.ctypes.data, values.ctypes.data
        except MemoryError:
            raise DoesNotFitError(
                f"no memory for a KV cache of {capacity} positions", hint="use a smaller context"
            ) from None
        self.capacity = capacity

    def reset(self) -> None:
        """Forget everything; keep the room."""
        self.position = 0
        for array in self.conv.values():
            array[:] = 0
