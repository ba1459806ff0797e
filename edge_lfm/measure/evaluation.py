"""How far a packed model is from its reference: perplexity, KL divergence, routing, greedy text, tasks.

Windows and conventions are llama-perplexity's, so that numbers compare: 512 tokens, a fresh state for each, scored
from the middle on; KL divergence over tokens with log p > -16 in the reference. The reference is another packed
model, or a checkpoint that is streamed layer by layer. Knows token ids; knows no files and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.feeds import Feed
from edge_lfm.kernels.spec.ref import F32, I64
from edge_lfm.model.streamed import StreamedModel

LEAST_LOG_P = -16.0
BOOTSTRAP_ROUNDS, BOOTSTRAP_SEED = 1000, 0
Experts = dict[int, I64]
"""Layer -> chosen experts [T, k]."""


class Scorer(Protocol):
    """What is evaluated: logits and routing of windows."""

    def prepare(self, windows: Sequence[I64], advance: Callable[[int], object]) -> None:
        """Do what is done once for all windows."""

    def score(self, n: int, window: I64) -> tuple[F32, Experts]:
        """Logits [T, vocab] of window `n`, and its routing."""


class PackedScorer:
    """A loaded model."""

    def __init__(self, runner: Backend, vocab: int) -> None:
        self.runner, self.vocab = runner, vocab

    def prepare(self, windows: Sequence[I64], advance: Callable[[int], object]) -> None:
        pass

    def score(self, n: int, window: I64) -> tuple[F32, Experts]:
        state = self.runner.new_state(len(window))
        parts: list[F32] = []
        experts: dict[int, list[I64]] = {}
        for first in range(0, len(window), self.runner.chunk):
            chunk = window[first : first + self.runner.chunk]
            feed = Feed(state, chunk, "all")
            logits = self.runner.run([feed], routing=lambda n, e: experts.setdefault(n, []).append(e))[0]
            parts.append(logits[:, : self.vocab])
        return np.concatenate(parts), {layer: np.concatenate(e) for layer, e in experts.items()}

    def greedy(self, prompt: I64, tokens: int) -> list[int]:
        """The likeliest continuation."""
        state = self.runner.new_state(len(prompt) + tokens)
        logits, out = self.runner.read(prompt.tolist(), state), []
        for _ in range(tokens):
            out.append(int(logits[: self.vocab].argmax()))
            logits = self.runner.read(out[-1:], state)
        return out


@dataclass
class StreamedScorer:
    """A checkpoint, float32, layer by layer: all windows pass together, and their hidden states are kept."""

    model: StreamedModel
    vocab: int
    _hidden: F32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    _experts: Experts = field(default_factory=dict)

    def prepare(self, windows: Sequence[I64], advance: Callable[[int], object]) -> None:
        self.model.observer = self
        self._hidden = self.model.hidden(windows, advance)
        self.model.observer = None
        self._length = len(windows[0])

    def score(self, n: int, window: I64) -> tuple[F32, Experts]:
        rows = slice(n * self._length, (n + 1) * self._length)
        return self.model.head(self._hidden[rows])[:, : self.vocab], {k: e[rows] for k, e in self._experts.items()}

    def matrix(self, name: str, x: F32) -> None:
        pass

    def routed(self, layer: int, x: F32, chosen: I64, weight: F32) -> None:
        self._experts[layer] = chosen

    def expert(self, layer: int, expert: int, x: F32, gated: F32, weight: F32) -> None:
        pass


@dataclass(frozen=True)
class Divergence:
    """A model against its reference on the same tokens. Differences of probability are of the true next token."""

    perplexity: float
    reference_perplexity: float
    log_ratio: float  # mean of ln(perplexity / reference), and its standard error
    log_ratio_error: float
    kl_mean: float
    kl_error: float  # standard error, by bootstrap over windows
    kl_median: float
    kl_99: float
    kl_999: float
    kl_max: float
    same_top: float
    rms_dp: float
    routing_same: dict[int, float]  # layer -> share of tokens with the same set of experts
    routing_overlap: dict[int, float]  # layer -> mean share of experts in common
    expert_use: dict[int, list[float]]  # layer -> share of the choices of each expert, in the model
    tokens: int
    windows: int


@dataclass(frozen=True)
class Perplexity:
    """A model by itself."""

    perplexity: float
    tokens: int
    windows: int


def measure_perplexity(model: Scorer, windows: Sequence[I64], advance: Callable[[int], object]) -> Perplexity:
    """Perplexity of the second half of every window."""
    model.prepare(windows, lambda _n: None)
    losses = []
    for n, window in enumerate(windows):
        logits, _ = model.score(n, window)
        losses.append(-_true_log_p(_scored(logits), window))
        advance(1)
    loss = np.concatenate(losses)
    return Perplexity(float(np.exp(loss.mean())), len(loss), len(windows))


def measure_divergence(
    model: Scorer, reference: Scorer, windows: Sequence[I64], advance: Callable[[int], object]
) -> Divergence:
    """All figures of `Divergence`; `advance` is called with 1 after each window."""
    model.prepare(windows, lambda _n: None)
    rows = [_compare(model.score(n, w), reference.score(n, w), w, lambda: advance(1)) for n, w in enumerate(windows)]
    joined = {k: np.concatenate([row[k] for row in rows]) for k in ("kl", "log_p", "log_q", "same")}
    kl, log_p, log_q = joined["kl"], joined["log_p"], joined["log_q"]
    layers = rows[0]["experts"].keys()
    same, overlap, use = _routing(rows, layers)
    ratio = log_p - log_q
    return Divergence(
        perplexity=float(np.exp(-log_q.mean())),
        reference_perplexity=float(np.exp(-log_p.mean())),
        log_ratio=float(ratio.mean()),
        log_ratio_error=float(ratio.std(ddof=1) / np.sqrt(len(ratio))),
        kl_mean=float(kl.mean()),
        kl_error=_bootstrap([row["kl"].mean() for row in rows]),
        kl_median=float(np.median(kl)),
        kl_99=float(np.percentile(kl, 99)),
        kl_999=float(np.percentile(kl, 99.9)),
        kl_max=float(kl.max()),
        same_top=float(joined["same"].mean()),
        rms_dp=float(np.sqrt(np.mean((np.exp(log_q) - np.exp(log_p)) ** 2))),
        routing_same=same,
        routing_overlap=overlap,
        expert_use=use,
        tokens=len(kl),
        windows=len(windows),
    )


def divergence_step(model: PackedScorer, reference: PackedScorer, prompts: Sequence[I64], tokens: int) -> list[int]:
    """For each prompt the number of greedy tokens that both models agree on, `tokens` at the most."""
    steps = []
    for prompt in prompts:
        pairs = zip(model.greedy(prompt, tokens), reference.greedy(prompt, tokens), strict=True)
        steps.append(next((n for n, (a, b) in enumerate(pairs) if a != b), tokens))
    return steps


def _compare(
    model: tuple[F32, Experts], reference: tuple[F32, Experts], window: I64, advance: Callable[[], object]
) -> dict[str, Any]:
    q, p = _log_softmax(_scored(model[0])), _log_softmax(_scored(reference[0]))
    kept = p > LEAST_LOG_P
    kl = np.where(kept, np.exp(p) * (p - q), 0).sum(axis=1)
    advance()
    return {
        "kl": kl,
        "log_p": _true_log_p(p, window),
        "log_q": _true_log_p(q, window),
        "same": p.argmax(axis=1) == q.argmax(axis=1),
        "experts": {layer: (model[1][layer], reference[1][layer]) for layer in model[1]},
    }


def _scored(logits: F32) -> F32:
    """The logits that predict the tokens after the middle of a window."""
    return logits[len(logits) // 2 : -1]


def _log_softmax(logits: F32) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    out: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return out


def _true_log_p(logits: NDArray[Any], window: I64) -> NDArray[np.float64]:
    """Log-probability of each token that follows; `logits` as from `_scored`."""
    log_p = _log_softmax(logits)
    targets = window[len(window) - len(log_p) :]
    return np.take_along_axis(log_p, targets[:, None], axis=1)[:, 0]


def _routing(
    rows: Sequence[dict[str, Any]], layers: Sequence[int] | Any
) -> tuple[dict[int, float], dict[int, float], dict[int, list[float]]]:
    same, overlap, use = {}, {}, {}
    for layer in layers:
        mine, theirs = (np.concatenate([row["experts"][layer][side] for row in rows]) for side in (0, 1))
        common = (mine[:, :, None] == theirs[:, None, :]).any(axis=2).sum(axis=1)
        same[layer] = float((common == mine.shape[1]).mean())
        overlap[layer] = float(common.mean() / mine.shape[1])
        counts = np.bincount(mine.ravel())
        use[layer] = [float(c) for c in counts / counts.sum()]
    return same, overlap, use


def _bootstrap(means: Sequence[float]) -> float:
    """Standard error of the mean over windows."""
    rng, values = np.random.default_rng(BOOTSTRAP_SEED), np.array(means)
    picks = rng.integers(0, len(values), (BOOTSTRAP_ROUNDS, len(values)))
    return float(values[picks].mean(axis=1).std())
