"""Steps on onnxruntime: an exported graph in the place of the project's own kernels.

The state is what the graph takes and gives: keys and values [1, kv, P, hd] float32 and the newest columns of each conv.
Knows the graph's names (`export/onnx.py`); knows no text and no sampling.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend, Routing
from edge_lfm.engine.feeds import Feed, Logits
from edge_lfm.errors import (
    CancelledError,
    DoesNotFitError,
    MissingExtraError,
    ModelFileError,
    NumericalError,
    UsageError,
)
from edge_lfm.memory.caches import CacheSizes
from edge_lfm.model.onnx_model import GRAPH, OnnxModel
from edge_lfm.model.state import Checkpoint, State
from edge_lfm.shape import Shape

CHUNK = 128
"""Tokens of a prefill step: the graph gives the logits of all of them, 34 MB for a vocabulary of 65,536."""
_OLDEST = (1, 30)
"""QMoE takes the router's weights beside its choice since then."""
_QUIET = 3


class OnnxState(State):
    """The state of one sequence, in the graph's own layout; caches hold at least `position` positions."""

    def __init__(self, shape: Shape, context: int) -> None:
        self.shape, self.context, self.kv_dtype = shape, context, "float32"
        self.position = self.capacity = self.ring = self.oldest = 0
        self.max_checkpoints = CacheSizes(shape, context, self.kv_dtype, CHUNK).checkpoints
        self.conv = {n: np.zeros((conv.taps, shape.hidden), np.float32) for n, conv in shape.convs.items()}
        self.caches = {}
        for n in shape.attentions:
            self._grow(n, 0)
        self._after: dict[int, dict[int, NDArray[np.float32]]] = {}

    @property
    def conv_width(self) -> int:
        """A step that stops behind a token has all that convolutions see."""
        return 1

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """The graph's inputs that carry the state."""
        inputs = {f"past_conv.{n}": np.ascontiguousarray(array.T)[None] for n, array in self.conv.items()}
        for (n, field), array in self.caches.items():
            inputs[f"past_key_values.{n}.{field[:-1]}"] = np.ascontiguousarray(array[:, :, : self.position])
        return inputs

    def take(self, given: dict[str, NDArray[np.float32]], tokens: int) -> None:
        """Be what the graph has made of it after so many more tokens."""
        for n in self.conv:
            self.conv[n] = np.ascontiguousarray(given[f"present_conv.{n}"][0].T)
        for n, field in self.caches:
            self.caches[n, field] = given[f"present.{n}.{field[:-1]}"]
        self.position += tokens
        self.capacity = self.position

    def remember(self, kept: int) -> None:
        """Note the conv state after the first `kept` tokens of this step."""
        self._after[kept] = {n: array.copy() for n, array in self.conv.items()}

    def reserve(self, positions: int) -> None:
        self.check_room(positions)  # the graph makes the room

    def note(self, tokens: Sequence[int], count: int) -> None:
        self._after = {}

    def drop_notes(self) -> None:
        self._after = {}

    def checkpoint_after(self, before: Checkpoint, kept: int) -> Checkpoint:
        return Checkpoint(before.position + kept, self._after[kept] if kept else before.conv)

    def copy_from(self, other: State, positions: int) -> None:
        self.reserve(positions)
        for key, array in other.caches.items():
            self.caches[key] = array[:, :, :positions]
        self.capacity = positions

    def cache_views(self, positions: int) -> Iterator[tuple[str, NDArray[Any]]]:
        for n, field in sorted(self.caches):
            if self.caches[n, field].shape[2] < positions:
                self._grow(n, positions)
            yield f"{field}.{n}", self.caches[n, field][:, :, :positions]

    def _grow(self, n: int, capacity: int) -> None:
        attention = self.shape.attentions[n]
        shape = (1, attention.kv_heads, capacity, attention.width)
        for field in ("keys", "values"):
            self.caches[n, field] = np.zeros(shape, np.float32)


class OnnxRunner(Backend):
    """An onnxruntime session on the CPU.

    Raises:
        MissingExtraError: onnxruntime is not installed, or too old.
        ModelFileError: it cannot load the graph.
        DoesNotFitError: there is no memory for it.
    """

    def __init__(self, model: OnnxModel, threads: int) -> None:
        ort = onnxruntime_package()
        self.model, self.shape, self._threads, self.chunk = model, model.shape, threads, CHUNK
        self.name = f"onnxruntime {ort.__version__}"
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _QUIET
        try:
            self._session = ort.InferenceSession(str(model.folder / GRAPH), options, providers=["CPUExecutionProvider"])
        except MemoryError:
            raise DoesNotFitError(f"no memory for {model.folder}", hint="use a smaller model") from None
        except Exception as error:  # onnxruntime's own classes have no common base of their own
            raise ModelFileError(
                f"{model.folder / GRAPH}: {' '.join(str(error).split())[:300]}", hint="export the model again"
            ) from None
        self._outputs = [output.name for output in self._session.get_outputs()]
        expected = {"logits", *(f"present_conv.{n}" for n in OnnxState(model.shape, 1).conv)}
        if not expected <= set(self._outputs):
            raise ModelFileError(f"{model.folder / GRAPH} was not exported by edge-lfm", hint="export the model again")
        self._turn = threading.Lock()

    @property
    def threads(self) -> int:
        return self._threads

    def new_state(self, context: int, kv_dtype: str = "float16") -> State:
        return OnnxState(self.shape, context)

    def run(
        self,
        feeds: Sequence[Feed],
        routing: Routing | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Logits]:
        if routing is not None:
            raise UsageError("onnxruntime does not show the routing", hint="use the packed model")
        self._check(feeds)
        with self._turn:
            return [self._feed(feed, cancelled)[len(feed.token_ids) - feed.logit_rows :] for feed in feeds]

    def _feed(self, feed: Feed, cancelled: Callable[[], bool] | None) -> Logits:
        """Run the tokens of one feed, with a stop behind each that is noted; logits [T, vocab] of all."""
        state, ids = feed.state, np.asarray(feed.token_ids, np.int64)
        assert isinstance(state, OnnxState)
        state.note(feed.noted, len(ids))
        state.reserve(state.position + len(ids))
        rows: list[Logits] = []
        done = 0
        for end in sorted({*(t + 1 for t in feed.noted), len(ids)}):
            if cancelled is not None and cancelled():
                raise CancelledError("the step was cancelled")
            rows.append(self._step(ids[done:end], state))
            if end - 1 in feed.noted:
                state.remember(end)
            done = end
        return np.concatenate(rows)

    def close(self) -> None:
        """Give the session's memory back."""
        del self._session

    def _step(self, token_ids: NDArray[np.int64], state: OnnxState) -> NDArray[np.float32]:
        inputs: dict[str, NDArray[Any]] = dict(state.inputs())
        inputs["input_ids"] = np.ascontiguousarray(token_ids, np.int64)[None]
        inputs["attention_mask"] = np.ones((1, state.position + len(token_ids)), np.int64)
        given = dict(zip(self._outputs, self._session.run(None, inputs), strict=True))
        logits: Logits = given["logits"][0]
        if not np.isfinite(logits[-1]).all():
            raise NumericalError("a NaN or an infinity appeared in the activations", hint="export the model again")
        state.take(given, len(token_ids))
        return logits


def onnxruntime_package() -> ModuleType:
    """The package onnxruntime.

    Raises:
        MissingExtraError: it is missing or too old.
    """
    try:
        import onnxruntime as package
    except ImportError:
        raise MissingExtraError("this backend needs the package onnxruntime", extra="onnx") from None
    version = tuple(int(part) for part in package.__version__.split(".")[:2])
    if version < _OLDEST:
        raise MissingExtraError(f"onnxruntime {package.__version__} is too old", extra="onnx")
    module: ModuleType = package
    return module
