"""What a model consists of: the tensors of its checkpoint, and the packed tensors that they become.

One table serves the quantizer (which sources make a tensor), the runtime (where a tensor goes) and the
sizes that are printed before any work. Knows names and shapes, no weights and no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from edge_lfm.errors import UnsupportedModelError
from edge_lfm.kernels.spec.layout import GROUP, LAYOUT_VERSION
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.model.supported import check_supported
from edge_lfm.shape import Attention, Ffn, LatentAttention, Shape, ShortConv

TENSOR_CLASSES = ("experts", "ffn", "conv", "attention", "embedding")
"""The classes of quantized tensors; a scheme is chosen for each. All others stay float32."""

DOWN_CLASSES = {"experts_down": "experts", "ffn_down": "ffn"}
"""The classes of w2, where it has another scheme than w1 and w3 of the same block; a recipe need not name them."""

SCREEN_CLASS = "screen"
"""Of a copy of the head in fewer bits, which tells what rows of the head a token needs (`engine/screening.py`)."""

OPTIONAL_CLASSES = (*DOWN_CLASSES, SCREEN_CLASS)
"""What a recipe need not name."""

EMBEDDING = "model.embed_tokens.weight"
"""The packed name of the table of embeddings."""
EXPERT_CLASS = "experts"
FLOAT_CLASS = "float"
ROUTER_CLASS = "router"
GATE_CLASS = "gate"
"""Of matrices that give one number a head: they stay float32, some 0.1 % of what a token reads."""
BLOCK_ALIGNMENT = 16384
"""Expert blocks begin on multiples of this: the page of a Raspberry Pi 5, and good for direct reads."""


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint, with the shape that the config asks for."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """A weight matrix: its sources stacked along the rows; `interleave`: their 16-row tiles in turn."""

    sources: tuple[Source, ...]
    scheme: str  # its name
    interleave: bool = False

    @property
    def rows(self) -> int:
        return sum(source.shape[0] for source in self.sources)

    @property
    def cols(self) -> int:
        return self.sources[0].shape[1]

    @cached_property
    def nbytes(self) -> int:
        return SCHEMES[self.scheme].matrix_bytes(self.rows, self.cols)


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of the packed file: matrices, one after the other, or one float32 array.

    biases: of a block's w1, w3 and w2, float32; they stand behind its matrices, those of w1 and w3 16 in turn.
    screen: of the head, a copy in fewer bits that stands behind it; a bound on the error of each row follows,
    float32 [rows] (`quantize/screen.py`).
    """

    name: str
    kind: str  # one of TENSOR_CLASSES, FLOAT_CLASS, ROUTER_CLASS or GATE_CLASS
    matrices: tuple[Matrix, ...] = ()
    biases: tuple[Source, ...] = ()
    floats: Source | None = None
    aligned: bool = False
    screen: Matrix | None = None

    @cached_property
    def nbytes(self) -> int:
        if self.floats is not None:
            return 4 * _product(self.floats.shape)
        screen = self.screen.nbytes + 4 * self.screen.rows if self.screen else 0
        return self.bias_offset + 4 * sum(_product(bias.shape) for bias in self.biases) + screen

    @property
    def bias_offset(self) -> int:
        """Where its biases begin."""
        return sum(matrix.nbytes for matrix in self.matrices)

    @property
    def weights(self) -> int:
        """Number of parameters, padding not counted."""
        if self.floats is not None:
            return _product(self.floats.shape)
        return sum(m.rows * m.cols for m in self.matrices) + sum(_product(bias.shape) for bias in self.biases)

    @property
    def layer(self) -> int | None:
        """The number of its layer, if it belongs to one."""
        parts = self.name.split(".")
        return int(parts[2]) if parts[1] == "layers" else None

    def scheme_of(self, source: str) -> str:
        """The name of the scheme that a source is stored in."""
        return next((m.scheme for m in self.matrices if source in (s.name for s in m.sources)), "float32")

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.floats,) if self.floats else (*(s for m in self.matrices for s in m.sources), *self.biases)


@dataclass(frozen=True)
class Schemes:
    """The scheme of each tensor class, and the name of the recipe that chose them."""

    recipe: str
    by_class: Mapping[str, str] = field(hash=False)  # of TENSOR_CLASSES, and what a recipe names of OPTIONAL_CLASSES

    def of(self, kind: str) -> str:
        """The name of a class's scheme; of a class of w2 that has none, that of w1 and w3."""
        return self.by_class.get(kind) or self.by_class[DOWN_CLASSES[kind]]

    def to_json(self) -> dict[str, object]:
        """The `quantization_config` of a packed model."""
        return {
            "quant_method": "edge_lfm",
            "layout_version": LAYOUT_VERSION,
            "group_size": GROUP,
            "recipe": self.recipe,
            "schemes": dict(self.by_class),
        }


def plan_tensors(shape: Shape, schemes: Schemes) -> list[PackedTensor]:
    """Every tensor of the packed model, in file order: what every token needs, then the experts layer by layer.

    Raises:
        UnsupportedModelError: the model has something that the kernels cannot do, or a class a scheme that cannot hold
            it.
    """
    check_supported(shape)
    trunk = list(_trunk(shape, schemes))
    experts: list[PackedTensor] = []
    for n, layer in enumerate(shape.layers):
        blocks = _ffn_blocks(layer.ffn, schemes, n, shape.hidden)
        (trunk if layer.ffn.router is None else experts).extend(blocks)
    for tensor in trunk + experts:
        _check_columns(tensor)
    return trunk + experts


def _check_columns(tensor: PackedTensor) -> None:
    """Refuse a scheme that stores more columns together than divide the matrix."""
    for matrix in (*tensor.matrices, *([tensor.screen] if tensor.screen else [])):
        columns = SCHEMES[matrix.scheme].columns
        if matrix.cols % columns:
            raise UnsupportedModelError(
                f"{matrix.sources[0].name} has {matrix.cols} columns, and {matrix.scheme} stores {columns} together",
                hint=f"choose a recipe with another scheme for the class {tensor.kind}",
            )


def expert_name(layer: int, expert: int) -> str:
    """The packed name of one expert's block."""
    return f"model.layers.{layer}.feed_forward.experts.{expert}"


def dense_name(layer: int) -> str:
    """The packed name of a dense FFN's block."""
    return f"model.layers.{layer}.feed_forward.block"


def shared_name(layer: int) -> str:
    """The packed name of the block of a dense FFN beside experts."""
    return f"model.layers.{layer}.feed_forward.shared"


def head_name(shape: Shape) -> str:
    """The packed name of the matrix that makes logits."""
    return EMBEDDING if shape.tied else "lm_head.weight"


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _trunk(shape: Shape, schemes: Schemes) -> Iterator[PackedTensor]:
    hidden, vocab = shape.hidden, shape.vocab
    for name in dict.fromkeys((EMBEDDING, head_name(shape))):
        tensor = _matrix(name, "embedding", schemes, (vocab, hidden))
        yield _screened(tensor, schemes) if name == head_name(shape) else tensor
    yield _float("model.embedding_norm.weight", (hidden,))
    for n, layer in enumerate(shape.layers):
        at, operator, router = f"model.layers.{n}", layer.operator, layer.ffn.router
        yield _float(f"{at}.operator_norm.weight", (hidden,))
        yield _float(f"{at}.ffn_norm.weight", (hidden,))
        if layer.post_norms:
            yield _float(f"{at}.post_operator_norm.weight", (hidden,))
            yield _float(f"{at}.post_ffn_norm.weight", (hidden,))
        if isinstance(operator, Attention):
            yield from _attention(operator, schemes, at, hidden)
        elif isinstance(operator, LatentAttention):
            yield from _latent_attention(operator, schemes, at, hidden)
        else:
            yield from _conv(operator, schemes, at, hidden)
        if layer.ffn.shared:
            shared = replace(layer.ffn, width=layer.ffn.shared)
            yield _block(shared_name(n), "ffn", schemes, f"{at}.feed_forward.shared", hidden, shared)
        if router is not None:
            yield _float_matrix(f"{at}.feed_forward.gate.weight", ROUTER_CLASS, (router.experts, hidden))
            if router.bias:
                yield _float(f"{at}.feed_forward.gate.bias", (router.experts,))
            if router.selection_bias:
                yield _float(f"{at}.feed_forward.expert_bias", (router.experts,))


def _conv(conv: ShortConv, schemes: Schemes, at: str, hidden: int) -> Iterator[PackedTensor]:
    yield _matrix(f"{at}.conv.in_proj.weight", "conv", schemes, (3 * hidden, hidden))
    yield _matrix(f"{at}.conv.out_proj.weight", "conv", schemes, (hidden, hidden))
    yield _float(f"{at}.conv.conv.weight", (hidden, 1, conv.taps))
    if conv.bias:
        yield _float(f"{at}.conv.in_proj.bias", (3 * hidden,))
        yield _float(f"{at}.conv.out_proj.bias", (hidden,))
        yield _float(f"{at}.conv.conv.bias", (hidden,))


def _attention(attention: Attention, schemes: Schemes, at: str, hidden: int) -> Iterator[PackedTensor]:
    width = attention.width
    q, kv = attention.heads * width, attention.kv_heads * width
    parts = tuple(
        Source(f"{at}.self_attn.{p}_proj.weight", (rows, hidden)) for p, rows in (("q", q), ("k", kv), ("v", kv))
    )
    qkv = Matrix(parts, schemes.of("attention"))
    yield PackedTensor(f"{at}.self_attn.qkv_proj.weight", "attention", (qkv,))
    yield _matrix(f"{at}.self_attn.out_proj.weight", "attention", schemes, (hidden, q))
    if attention.gate == "head":
        yield _float_matrix(f"{at}.self_attn.gate_proj.weight", GATE_CLASS, (attention.gates, hidden))
    if attention.gate == "value":
        yield _matrix(f"{at}.self_attn.gate_proj.weight", "attention", schemes, (attention.gates, hidden))
    for part, rows in (("q", q), ("k", kv), ("v", kv)) if attention.bias else ():
        yield _float(f"{at}.self_attn.{part}_proj.bias", (rows,))
    if attention.out_bias:
        yield _float(f"{at}.self_attn.out_proj.bias", (hidden,))
    if attention.sinks:
        yield _float(f"{at}.self_attn.sinks", (attention.heads,))
    if attention.qk_norm != "none":
        whole = attention.qk_norm == "all"
        yield _float(f"{at}.self_attn.q_layernorm.weight", (q if whole else width,))
        yield _float(f"{at}.self_attn.k_layernorm.weight", (kv if whole else width,))


def _latent_attention(latent: LatentAttention, schemes: Schemes, at: str, hidden: int) -> Iterator[PackedTensor]:
    """First what reads the layer's input, the queries' rows before the latent's."""
    at, q_rows, rank = f"{at}.self_attn", latent.heads * (latent.plain + latent.rope.width), latent.query_rank
    queries = Source(f"{at}.q_proj.weight", (q_rows, hidden))
    if rank is not None:
        queries = Source(f"{at}.q_a_proj.weight", (rank, hidden))
    latents = Source(f"{at}.kv_a_proj.weight", (latent.rank + latent.rope.width, hidden))
    in_proj = Matrix((queries, latents), schemes.of("attention"))
    yield PackedTensor(f"{at}.in_proj.weight", "attention", (in_proj,))
    if rank is not None:
        yield _float(f"{at}.q_a_layernorm.weight", (rank,))
        yield _matrix(f"{at}.q_b_proj.weight", "attention", schemes, (q_rows, rank))
    yield _float(f"{at}.kv_a_layernorm.weight", (latent.rank,))
    yield _matrix(f"{at}.k_b_proj.weight", "attention", schemes, (latent.heads * latent.rank, latent.plain))
    yield _matrix(f"{at}.v_b_proj.weight", "attention", schemes, (latent.heads * latent.value, latent.rank))
    yield _matrix(f"{at}.out_proj.weight", "attention", schemes, (hidden, latent.heads * latent.value))


def _ffn_blocks(ffn: Ffn, schemes: Schemes, n: int, hidden: int) -> list[PackedTensor]:
    at = f"model.layers.{n}.feed_forward"
    if ffn.router is None:
        return [_block(dense_name(n), "ffn", schemes, at, hidden, ffn)]
    return [
        _block(expert_name(n, e), EXPERT_CLASS, schemes, f"{at}.experts.{e}", hidden, ffn)
        for e in range(ffn.router.experts)
    ]


def _block(name: str, kind: str, schemes: Schemes, at: str, hidden: int, ffn: Ffn) -> PackedTensor:
    rows = {"w1": ffn.width, "w3": ffn.width, "w2": hidden}
    w1, w3 = (Source(f"{at}.{w}.weight", (rows[w], hidden)) for w in ("w1", "w3"))
    gate_up = Matrix((w1, w3), schemes.of(kind), interleave=True)
    down = Matrix((Source(f"{at}.w2.weight", (hidden, ffn.width)),), schemes.of(f"{kind}_down"))
    biases = tuple(Source(f"{at}.{w}.bias", (count,)) for w, count in rows.items()) if ffn.bias else ()
    return PackedTensor(name, kind, (gate_up, down), biases, aligned=True)


def _matrix(name: str, kind: str, schemes: Schemes, shape: tuple[int, int]) -> PackedTensor:
    return PackedTensor(name, kind, (Matrix((Source(name, shape),), schemes.of(kind)),))


def _screened(head: PackedTensor, schemes: Schemes) -> PackedTensor:
    """The head with its screen, if the recipe has one."""
    name = schemes.by_class.get(SCREEN_CLASS)
    if name is None:
        return head
    matrix = head.matrices[0]
    screen, exact = SCHEMES[name], SCHEMES[matrix.scheme]
    if not (
        screen.quantized and exact.quantized and screen.group_bytes * exact.columns < exact.group_bytes * screen.columns
    ):
        raise UnsupportedModelError(
            f"the class {SCREEN_CLASS} has the scheme {name}, and the head it stands for {matrix.scheme}",
            hint="a screen needs fewer bits than the head, and both be quantized: codebook4_g32 stands for int8_g32",
        )
    return replace(head, screen=replace(matrix, scheme=name))


def _float_matrix(name: str, kind: str, shape: tuple[int, int]) -> PackedTensor:
    return PackedTensor(name, kind, (Matrix((Source(name, shape),), "float32"),))


def _float(name: str, shape: tuple[int, ...]) -> PackedTensor:
    return PackedTensor(name, FLOAT_CLASS, floats=Source(name, shape))
