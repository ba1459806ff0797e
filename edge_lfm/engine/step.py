"""The record of a step: what describes the model, a row for each token, and the memory that it is computed in.

Made once for a runner, filled in for every step. Knows records and addresses; runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.feeds import Feed, Logits
from edge_lfm.kernels.spec.layout import ACTIVATION, CONTEXT, COUNTER, ERROR, EXPERTS_READ, GROUP, ROW, SYNC_BYTES
from edge_lfm.memory.scratch import CACHE_LINE, plan_scratch
from edge_lfm.model.binding import Binding
from edge_lfm.shape import Shape


class Step:
    """`chunk`: rows at most; `threads`: threads at most. What kernels write is read through the properties.

    cols: of the widest matrix that is multiplied beside those of the shape.
    """

    def __init__(self, shape: Shape, binding: Binding, chunk: int, threads: int, cols: int = 0) -> None:
        self._shape = shape
        self.feeds: tuple[Feed, ...] = ()
        """Of the step under way."""
        self._context = np.zeros(1, CONTEXT)
        self._sync = np.zeros(SYNC_BYTES // 8, np.int64)
        rows = np.zeros(chunk, ROW)
        self._rows = {name: rows[name] for name in rows.dtype.names or ()}
        self._logits: Logits = np.zeros((0, -(-shape.vocab // 16) * 16), np.float32)
        self._describe(shape, binding)
        self._chunk, self._scratch = chunk, self._make_scratch(chunk, threads, cols)
        self._context["rows"], self._context["sync"] = rows.ctypes.data, self._sync.ctypes.data
        self.address = self._context.ctypes.data
        self.tokens = 0
        """Rows of the step under way."""
        self.screened = False
        """Whether its logits are the screen's. One feed that wants the head has it multiplied for all."""

    def begin(self, feeds: Sequence[Feed]) -> None:
        """Describe a step. Its states have room for it, and know what they are to note."""
        rows, first, asked = self._rows, 0, 0
        for feed in feeds:
            state, last, wanted = feed.state, first + len(feed.token_ids), feed.asked
            rows["token_id"][first:last] = feed.token_ids
            rows["position"][first:last] = np.arange(state.position, state.position + last - first)
            rows["ahead"][first:last] = np.arange(last - first)[::-1] if feed.block else 0
            rows["states"][first:last] = state.address
            rows["noted"][first:last] = state.noted if state.noted.size else -1
            rows["logits"][first:last] = -1
            rows["logits"][first + wanted.start : first + wanted.stop] = np.arange(asked, asked + len(wanted))
            first, asked = last, asked + len(wanted)
        self.screened = self._screens and all(feed.contenders is not None for feed in feeds if feed.logit_rows)
        self._context["screened"] = self.screened
        if len(self._logits) < asked:
            self._logits = np.zeros((asked, self._logits.shape[1]), np.float32)
            self._context["logits"] = self._logits.ctypes.data
        self._context["tokens"], self._context["logit_rows"] = first, asked
        self.tokens, self.feeds = first, tuple(feeds)
        self._sync[ERROR // 8] = self._sync[EXPERTS_READ // 8] = 0
        self.show_all()

    def logits(self) -> list[Logits]:
        """Of each feed, once the step has been run: float32 [logit_rows, vocab]."""
        logits, first = [], 0
        for feed in self.feeds:
            last = first + feed.logit_rows
            logits.append(self._logits[first:last, : self._shape.vocab].copy())
            first = last
        return logits

    @property
    def failed(self) -> bool:
        """Whether a NaN or an infinity appeared, in activations or logits. One answer for the whole step: it does not
        tell in which row."""
        asked = self._logits[: int(self._context["logit_rows"][0]), : self._shape.vocab]
        finite = not asked.size or bool(np.isfinite(asked.min()) and np.isfinite(asked.max()))
        return bool(self._sync[ERROR // 8]) or not finite

    @property
    def experts_read(self) -> int:
        """Experts that its rows chose, each once in a layer."""
        return int(self._sync[EXPERTS_READ // 8])

    def ask_exact(self, tiles: NDArray[np.int64]) -> None:
        """Let the last stage compute tiles of the head: [n, 2], a row of logits and a tile each; it keeps the array."""
        self._exact = tiles
        self._context["exact"], self._context["exact_tiles"] = tiles.ctypes.data, len(tiles)

    @property
    def input_norms(self) -> NDArray[np.float64]:
        """Of the head's inputs as they are multiplied, int8 times scales: the norm of each row of logits."""
        count = int(self._context["logit_rows"][0])
        scales = self.array("normed_s", count).view(ACTIVATION)["scale"].astype(np.float64)
        q = self.array("normed_q", count).reshape(count, -1, GROUP).astype(np.float64)
        norms: NDArray[np.float64] = np.sqrt(np.einsum("rgk,rgk,rg->r", q, q, np.square(scales)))
        return norms

    def run_on(self, threads: int) -> None:
        """Tell the next stages how many threads run them."""
        self._context["threads"] = threads

    def begin_phase(self, threads: int) -> None:
        """Let so many threads run one more phase by itself, which no barrier ends."""
        self._context["threads"], self._sync[COUNTER // 8] = threads, 0

    def array(self, field: str, rows: int) -> NDArray[Any]:
        """The first rows of a scratch field that has the same values for every row [rows, values]."""
        return self._scratch[field].reshape(self._chunk, -1)[:rows]

    def thread_scratch(self, n: int) -> int:
        """The address of thread n's scratch memory."""
        return int(self._context["scratch"][0]) + n * int(self._context["scratch_bytes"][0])

    @property
    def stream(self) -> NDArray[np.float32]:
        """The residual stream of all rows [T, H], as the last stage left it."""
        return self.array("x", self.tokens)

    @property
    def logit_rows(self) -> NDArray[np.float32]:
        """The logits asked for [rows, vocab], as kernels write them; valid until the next step."""
        return self._logits[: int(self._context["logit_rows"][0]), : self._shape.vocab]

    @property
    def hidden(self) -> NDArray[np.float32]:
        """The residual stream of the first row [H]."""
        return self._scratch["x"][: self._shape.hidden]

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The experts of each row [T, k] in the layer under way, in order of their score."""
        k = self._shape.top_k
        return self._scratch["chosen"][: self.tokens * k].reshape(-1, k)

    @property
    def weights(self) -> NDArray[np.float32]:
        """Of the experts of each row [T, k]."""
        k = self._shape.top_k
        return self._scratch["chosen_weight"][: self.tokens * k].reshape(-1, k)

    @property
    def scores(self) -> NDArray[np.float32]:
        """The router's, of the first row [E]."""
        return self._scratch["router_logits"][: self._shape.experts]

    def take(self, experts: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
        """Route the rows of this step to other experts [T, k] with these weights [T, k].

        What comes of the router's choice is made anew, the activations of each pair's token included.
        """
        segments, flat, pairs = self._scratch["segments"], experts.ravel(), experts.size
        order = np.argsort(flat, kind="stable")
        self._sync[EXPERTS_READ // 8] += len(np.unique(flat)) - len(np.unique(self.chosen))
        self._scratch["chosen"][:pairs] = flat
        segments[:] = np.searchsorted(flat[order], np.arange(len(segments)))
        self._scratch["pair_token"][:pairs] = order // experts.shape[1]
        self._scratch["pair_weight"][:pairs] = weights.ravel()[order]
        for part in ("", "_q", "_s"):
            gathered = self._scratch[f"pairs{part}"].reshape(self._chunk * experts.shape[1], -1)
            gathered[:pairs] = self.array(f"normed{part}", self.tokens)[order // experts.shape[1]]

    def show(self, experts: list[int]) -> None:
        """Let the next stages of an FFN compute these experts, and leave out the others."""
        self._scratch["present"][:] = 0
        self._scratch["present"][experts] = 1

    def show_all(self) -> None:
        """Let the next stages of an FFN compute all experts."""
        self._scratch["present"][:] = 1

    def _describe(self, shape: Shape, binding: Binding) -> None:
        c = self._context
        c["layer_count"], c["layers"] = len(shape.layers), binding.layers.ctypes.data
        c["hidden"], c["norm_eps"], c["embed_scale"] = shape.hidden, shape.eps, shape.embed_scale
        c["experts"], c["top_k"] = max(1, shape.experts), max(1, shape.top_k)
        c["embedding"], c["head"], c["final_norm"] = binding.embedding, binding.head, binding.final_norm.ctypes.data
        self._screens = binding.screen is not None
        if binding.screen is not None:
            c["screen"] = binding.screen.matrix

    def _make_scratch(self, chunk: int, threads: int, cols: int) -> dict[str, NDArray[Any]]:
        """Zeroed buffers behind the scratch fields; the system gives their pages when they are first touched."""
        plan, arrays = plan_scratch(self._shape, chunk, threads, cols), {}
        for buffer in plan.buffers:
            whole = np.zeros(buffer.nbytes + CACHE_LINE, np.uint8)
            first = -whole.ctypes.data % CACHE_LINE
            arrays[buffer.field] = whole[first : first + buffer.nbytes].view(buffer.dtype)
            self._context[buffer.field] = arrays[buffer.field].ctypes.data
        self._context["scratch_bytes"] = plan.thread_bytes
        return arrays
