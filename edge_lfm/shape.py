"""What a model is made of: the one description that kernels' records, plans, budgets and exports are made from.

Frozen records of numbers and nothing else. `architectures/` makes them of a `config.json`; nobody else asks of which
family a model is. `None` means that a model has no such part. Knows no tensors, no files and no family.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal


@dataclass(frozen=True)
class Yarn:
    """Slower angles for a longer context than a model was first trained for (YaRN, arXiv 2309.00071).

    Pairs that turn `fast` times or more within the first `original` positions keep their angles; those that turn `slow`
    times or less get theirs divided by `factor`; between them lies a ramp.
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    """Whether the ramp begins and ends at whole pairs."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: the values i and i + width / 2 of a head turn by position * theta**(-2i / width)."""

    theta: float
    width: int
    """Values of a head that are paired, the first ones."""
    turned: int | None = None
    """Pairs that turn, the first ones; None: all."""
    scaling: Yarn | None = None
    magnitude: float = 1.0
    """What cosines and sines are multiplied by."""


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention; scores are scaled by width**-0.5."""

    heads: int
    kv_heads: int
    width: int
    """Values of a head."""
    rope: Rope | None
    """None: queries and keys carry no position."""
    qk_norm: Literal["none", "head", "all"]
    """RMSNorm of queries and keys: none, of each head, or of all heads together."""
    window: int | None = None
    """A token sees this many newest positions, its own included; None: all."""
    bias: bool = False
    """Whether the projections of queries, keys and values add a bias."""
    gate: Literal["none", "head", "value"] = "none"
    """Sigmoids of a projection of the layer's input, which the output is multiplied by: one for each head or value."""

    out_bias: bool = False
    """Whether the projection behind attention adds a bias."""
    sinks: bool = False
    """Whether each head has a stored logit that takes its share of every softmax, and carries no value."""
    norm_after_rope: bool = False
    """Whether RoPE turns queries and keys before they are normed."""

    @property
    def gates(self) -> int:
        """Rows of the gate's projection."""
        return {"none": 0, "head": self.heads, "value": self.heads * self.width}[self.gate]

    @property
    def key_width(self) -> int:
        """Values of a key that are kept."""
        return self.width

    @property
    def value_width(self) -> int:
        """Values of a value that are kept."""
        return self.width


@dataclass(frozen=True)
class LatentAttention:
    """Causal attention whose keys and values are made of one vector for each position (MLA, arXiv 2405.04434).

    A position keeps c, its normed latent, and r, a key that is turned and that all heads share. Head h has the key
    (K_h c, r) and the value V_h c; its query is (p, t), of which t is turned. Absorbed: p K_h c = (K_h' p) c.
    """

    heads: int
    query_rank: int | None
    """Values of the normed vector that queries are made of; None: they are made of the layer's input."""
    rank: int
    """Values of a latent."""
    plain: int
    """Values of a query and of a key that carry no position."""
    value: int
    """Values that a head gives."""
    rope: Rope
    """Of the values that are turned."""
    eps: float
    """Of the norms of latents."""
    scale: float
    """What scores are multiplied by."""
    interleaved: bool
    """Whether a checkpoint's rows turn in pairs (2i, 2i + 1); canonical tensors' do in pairs (i, i + width / 2)."""

    @property
    def kv_heads(self) -> int:
        """All heads share what is kept."""
        return 1

    @property
    def window(self) -> None:
        """A token sees all positions."""
        return None

    @property
    def key_width(self) -> int:
        """Values of a key that are kept: those that are turned."""
        return self.rope.width

    @property
    def value_width(self) -> int:
        """Values of a value that are kept: the latent."""
        return self.rank


@dataclass(frozen=True)
class ShortConv:
    """The gated causal convolution along the sequence, for each channel of the hidden size."""

    taps: int
    bias: bool
    """Whether its three projections add a bias."""


@dataclass(frozen=True)
class Router:
    """How a token chooses experts and weighs them; the rule itself is `kernels/spec/routing.py`."""

    experts: int
    top_k: int
    score: Literal["sigmoid", "softmax"]
    """Of the router's logits; softmax goes over all experts."""
    selection_bias: bool
    """Whether a stored number for each expert is added to its score for the choice, and not for the weight."""
    normalize: bool
    """Whether the weights of the chosen are divided by their sum."""
    guard: float
    """What is added to that sum."""
    scale: float
    """What the weights are multiplied by."""
    bias: bool = False
    """Whether a stored number for each expert is added to its logit."""
    groups: int = 1
    """Of as many neighbouring experts each; a group's worth is that of its two best together."""
    kept_groups: int = 1
    """Groups of a token, the best ones, that it chooses its experts from."""


@dataclass(frozen=True)
class Gated:
    """g * sigmoid(alpha g) * (u + plus), of g = w1 x up to `limit` and u = w3 x of -limit .. limit; else silu(g) u."""

    alpha: float = 1.0
    limit: float | None = None
    """None: nothing is clamped."""
    plus: float = 0.0


@dataclass(frozen=True)
class Ffn:
    """w2(gated(w1 x, w3 x)): one for all tokens, or of each expert."""

    width: int
    """Rows of w1 and w3."""
    router: Router | None = None
    """None: dense."""
    shared: int = 0
    """Rows of w1 and w3 of a dense FFN beside the experts, which every token passes; 0: there is none."""
    gated: Gated = Gated()
    bias: bool = False
    """Whether w1, w3 and w2 add biases; an expert's w2 before its weight."""


@dataclass(frozen=True)
class Layer:
    """h = h + operator(norm(h)); h = h + ffn(norm(h))."""

    operator: Attention | LatentAttention | ShortConv
    ffn: Ffn
    post_norms: bool = False
    """Whether what the operator and the FFN give is normed, each by a norm of its own, before it is added."""


@dataclass(frozen=True)
class Shape:
    """A whole model: embedding, layers, final norm, head."""

    vocab: int
    hidden: int
    eps: float
    """Of every RMSNorm."""
    layers: tuple[Layer, ...]
    tied: bool
    """Whether the head is the embedding."""
    context: int
    """Positions that the model was made for."""
    bos: int | None
    eos: tuple[int, ...]
    embed_scale: float = 1.0
    """What a token's embedding is multiplied by."""

    @cached_property
    def attentions(self) -> dict[int, Attention]:
        """The layers that attend, by their number."""
        return {n: layer.operator for n, layer in enumerate(self.layers) if isinstance(layer.operator, Attention)}

    @cached_property
    def latents(self) -> dict[int, LatentAttention]:
        """The layers that attend to latents, by their number."""
        return {n: layer.operator for n, layer in enumerate(self.layers) if isinstance(layer.operator, LatentAttention)}

    @cached_property
    def keeping(self) -> dict[int, Attention | LatentAttention]:
        """The layers that keep something of every position, by their number."""
        kinds = (Attention, LatentAttention)
        return {n: layer.operator for n, layer in enumerate(self.layers) if isinstance(layer.operator, kinds)}

    @cached_property
    def window(self) -> int:
        """Positions that a token sees in the layer with the widest window; 0: every layer that attends sees all."""
        return max((attention.window or 0 for attention in self.attentions.values()), default=0)

    @cached_property
    def convs(self) -> dict[int, ShortConv]:
        """The layers with a short convolution, by their number."""
        return {n: layer.operator for n, layer in enumerate(self.layers) if isinstance(layer.operator, ShortConv)}

    @cached_property
    def routers(self) -> dict[int, Router]:
        """The layers that have experts, by their number."""
        return {n: layer.ffn.router for n, layer in enumerate(self.layers) if layer.ffn.router is not None}

    @cached_property
    def experts(self) -> int:
        """Experts of the layer that has most; 0: the model is dense."""
        return max((router.experts for router in self.routers.values()), default=0)

    @cached_property
    def top_k(self) -> int:
        """Experts that one layer applies to a token at most; 0: the model is dense."""
        return max((router.top_k for router in self.routers.values()), default=0)


@dataclass(frozen=True)
class Drafter:
    """A network that guesses what a model, its target, says next: a block of guesses from the target's own streams."""

    body: Shape
    """Its layers; embedding and head are the target's."""
    target_layers: int
    taps: tuple[int, ...]
    """After which of the target's layers the stream is taken."""
    mask: int
    """The token that stands in the slots that are to be guessed."""
    slots: int
    """Of a block: so many tokens are guessed at a time."""
    rank: int
    """Of what a guess adds to the logits of the next one."""
    interleaved: bool
    """Whether heads turn in pairs (2i, 2i + 1); else in pairs (i, i + width / 2)."""
