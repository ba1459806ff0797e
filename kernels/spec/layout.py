"""The records that Python fills in and compiled kernels read: matrices, layers, states, the context of a step.

Records are NumPy structured dtypes; kernels see them as addresses plus the byte offsets of `offsets`.
Also the constants of weights and activations that both sides need. Knows no model names and no files. Imports no Numba.

Legend: T tokens of a step, H hidden size, E experts, I width of an FFN, hd head size, L taps of a convolution.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

LAYOUT_VERSION = 4
"""Goes up whenever packed bytes change their meaning."""

GROUP = 32
"""Values along the input dimension that share one scale, in weights and in activations."""

MATRIX = np.dtype([("scheme", "i8"), ("address", "i8"), ("rows", "i8"), ("cols", "i8"), ("bias", "i8")])
"""A weight matrix [rows, cols] as tiles of 16 rows; `bias` is the address of float32 [rows], or 0."""

LAYER = np.dtype(
    [
        ("is_attention", "i8"),
        ("is_moe", "i8"),
        ("operator_norm", "i8"),  # float32 [H]
        ("ffn_norm", "i8"),  # float32 [H]
        ("post_operator_norm", "i8"),  # float32 [H], of what the operator adds to the residual stream; or 0
        ("post_ffn_norm", "i8"),  # the same of the FFN
        ("in_proj", MATRIX),  # conv: B, C, x [3H, H]; attention: q, k, v [(heads + 2 kv) hd, H]
        ("out_proj", MATRIX),
        # the short convolution
        ("conv_width", "i8"),  # L
        ("taps", "i8"),  # float32 [L, H], oldest first
        ("taps_bias", "i8"),  # float32 [H], or 0
        # attention
        ("heads", "i8"),
        ("kv_heads", "i8"),
        ("head_dim", "i8"),  # hd, a multiple of 16
        ("window", "i8"),  # positions that a token attends to, its own and those before it; 0: all
        ("rope", "i8"),  # float32 [positions, rope_width] = cos, then sin, of rope_width / 2 angles
        ("rope_width", "i8"),  # values of a head that are turned, from its first on, a multiple of 32; 0: none
        ("q_norm", "i8"),  # float32 [hd], or [heads hd] where all heads are normed as one row; or 0
        ("k_norm", "i8"),  # float32 [hd], or [kv hd]; or 0
        ("norm_all", "i8"),  # whether all heads are normed as one row
        ("norm_last", "i8"),  # whether queries and keys are normed after they are turned
        ("sinks", "i8"),  # float32 [heads padded to 16], logits that take a share of each head's softmax; or 0
        ("latent", "i8"),  # LATENT record of attention to latents, whose in_proj is of queries, latent and key; or 0
        ("gate", MATRIX),  # logits of the gates of what attention gives, [heads or heads hd, H]; or no rows
        # the FFN
        ("router", MATRIX),  # float32 scheme [E, H]
        ("router_bias", "i8"),  # float32 [E padded to 16], for the selection only, or 0
        ("softmax", "i8"),  # scores of experts: 1 softmax, 0 sigmoid of the router's logits
        ("normalize", "i8"),  # whether the weights of the chosen are divided by their sum plus `guard`
        ("guard", "f4"),
        ("route_scale", "f4"),  # times that
        ("groups", "i8"),  # of as many neighbouring experts each, at most 64
        ("kept_groups", "i8"),  # of a token, the best ones, which it chooses from
        ("experts", "i8"),  # int64 [E]: address of each expert's block; a dense FFN is one expert
        (
            "shared",
            "i8",
        ),  # LAYER record of a dense FFN beside the experts, of which only the fields of an FFN count; or 0
        ("gate_up_scheme", "i8"),  # of w1 and w3
        ("down_scheme", "i8"),  # of w2
        ("expert_width", "i8"),  # I
        ("ffn_bias", "i8"),  # whether float32 [2 I + H] follow a block's matrices: of w1 and w3, 16 in turn, then of w2
        ("clamped", "i8"),  # 0: silu(g) u; 1: g sigmoid(alpha g) (u + plus), g up to `limit`, u of -limit .. limit
        ("gate_alpha", "f4"),
        ("gate_plus", "f4"),
        ("gate_limit", "f4"),  # infinity: nothing is clamped
    ],
    align=True,
)

LATENT = np.dtype(
    [
        ("heads", "i8"),
        ("rank", "i8"),  # R, values of a latent, a multiple of 32
        ("eps", "f4"),  # of both norms
        ("scale", "f4"),  # of scores
        ("q_norm", "i8"),  # float32 [cols of q_b]
        ("q_b", MATRIX),  # the queries of all heads from their normed latent; or no rows
        ("c_norm", "i8"),  # float32 [R]
        ("k_b", MATRIX),  # each head's plain query to R values [heads R, plain]
        ("v_b", MATRIX),  # each head's R values to its own [heads value, R]
    ],
    align=True,
)
"""What attention to latents has beside its LAYER. A head's query is `plain` values, then `rope_width` that turn."""

STATE = np.dtype(
    [
        ("conv", "i8"),  # float32 [L - 1, H], oldest first
        ("history", "i8"),  # float32 [R, H]: conv inputs of noted rows, so that the state can go back to them; or 0
        ("capacity", "i8"),  # C, positions that the caches have room for, a multiple of 16; p lies at p modulo C
        ("is_int8", "i8"),  # whether keys and values are int8; else they are float16
        ("keys", "i8"),  # [kv, C / 16, hd, 16]
        ("values", "i8"),  # [kv, C, hd]
        ("key_scales", "i8"),  # float32 [kv, C], of each head and position; int8 only
        ("value_scales", "i8"),  # float32 [kv, C]
    ]
)
"""The state of one layer of one sequence. Caches that are shorter than a sequence are rings: C is then a multiple of
SCORE_BLOCK, and holds a step's tokens beside the window of the first of them."""

ROW = np.dtype(
    [
        ("token_id", "i8"),
        ("position", "i8"),  # in its sequence
        ("ahead", "i8"),  # positions after its own that it attends to as well, of a block that sees itself; else 0
        ("states", "i8"),  # of its sequence: STATE [layers]
        ("noted", "i8"),  # the row of every layer's `history` that takes its conv input, or -1
        ("logits", "i8"),  # the row of the step's `logits` that takes its logits, or -1
    ]
)
"""One token of a step: whose it is, and what is wanted of it. Rows of one sequence stand in the order of its tokens."""

CONTEXT = np.dtype(
    [
        # the model
        ("layer_count", "i8"),
        ("layers", "i8"),
        ("hidden", "i8"),
        ("experts", "i8"),
        ("top_k", "i8"),
        ("embedding", MATRIX),
        ("head", MATRIX),
        ("screen", MATRIX),  # a copy of the head in fewer bits, or no rows
        ("final_norm", "i8"),
        ("norm_eps", "f4"),
        ("embed_scale", "f4"),  # what embeddings are multiplied by
        # the step
        ("tokens", "i8"),  # T
        ("rows", "i8"),  # ROW [T]
        ("logits", "i8"),  # float32 [logit_rows, rows of the head padded to 16]
        ("logit_rows", "i8"),
        ("screened", "i8"),  # 1: the screen makes the logits, 0: the head
        ("exact", "i8"),  # int64 [exact_tiles, 2]: a row of `logits`, and the tile of the head that it is computed with
        ("exact_tiles", "i8"),
        # the team
        ("threads", "i8"),
        ("sync", "i8"),
        # scratch, for at most `max_tokens` tokens
        ("x", "i8"),  # float32 [T, H], the residual stream
        ("normed", "i8"),
        ("normed_q", "i8"),
        ("normed_s", "i8"),  # [T, H] and its int8 form
        ("branch", "i8"),  # float32 [T, H]: what an operator or an FFN adds to x, where it is normed before
        ("wide", "i8"),  # float32 [T, rows of in_proj]
        ("gates", "i8"),  # float32 [T, rows of the layer's gate, padded to 16]
        ("mixed", "i8"),
        ("mixed_q", "i8"),
        ("mixed_s", "i8"),  # [T, cols of out_proj]
        ("low", "i8"),
        ("low_q", "i8"),
        ("low_s", "i8"),  # [T, cols of q_b], latents of queries
        ("queries", "i8"),  # float32 [T, rows of q_b]
        ("plain", "i8"),
        ("plain_q", "i8"),
        ("plain_s", "i8"),  # [heads, T, cols of k_b]
        ("low_queries", "i8"),  # float32 [T, rows of k_b]
        ("taken", "i8"),
        ("taken_q", "i8"),
        ("taken_s", "i8"),  # [heads, T, R], what heads take of the latents
        ("router_logits", "i8"),  # float32 [T, E padded to 16]
        ("chosen", "i8"),
        ("chosen_weight", "i8"),  # int64 and float32 [T, top_k]
        ("segments", "i8"),  # int64 [E + 1]: pairs of expert e are segments[e] .. segments[e + 1]
        ("present", "i8"),  # int64 [E]: the experts that the FFN's stages are to compute, 1 or 0
        ("pair_token", "i8"),
        ("pair_weight", "i8"),  # int64 and float32 [T * top_k], sorted by expert
        ("pairs", "i8"),
        ("pairs_q", "i8"),
        ("pairs_s", "i8"),  # inputs of the experts, in pair order
        ("gated", "i8"),
        ("gated_q", "i8"),
        ("gated_s", "i8"),  # silu(w1 x) * w3 x, in pair order
        ("scratch", "i8"),
        ("scratch_bytes", "i8"),  # per thread
    ],
    align=True,  # as C lays it out: a float32 stands among integers of eight bytes
)
"""Everything that a step reads, for any number of sequences. Fields that end in _q, _s are int8 values and the records
of their groups (`ACTIVATION_BYTES`)."""

FAULT_RANGES, FAULT_RANGE_BYTES = 16, 24
FAULT_PAGE = FAULT_RANGES * FAULT_RANGE_BYTES
FAULT_BYTES = FAULT_PAGE + 8
"""Ranges of mapped files that may lose pages (`faults.py`), int64 [FAULT_RANGES, 3], then the size of a page."""

ARRIVED, GENERATION, COUNTER, ERROR, SLEEPING, PATIENCE = 0, 64, 128, 192, 256, 320
EXPERTS_READ = ERROR + 8
SYNC_BYTES = 6 * 64
"""A cache line each: barrier arrivals, barrier generation, work counter, error flag, threads asleep at the barrier, and
for how many turns a thread spins there. Beside the error flag, which is as rarely written, the experts that the step's
rows chose, each once in a layer."""

SCORE_BLOCK = 256
"""Positions that attention scores at a time, per head, before it folds them into the running softmax."""

SPAN = 4 * SCORE_BLOCK
"""Positions, from a multiple on, whose softmax is computed by itself; spans are merged in order. So several threads may
compute them, with the same bits as one that computes all."""

QUERY_ROWS = 16
"""Query rows, heads of tokens, that may share one pass over the keys and values of their kv head."""

QUERY_STEPS = 127 * 128
"""Steps up to a query's largest value, where queries are rounded (`Isa.rounds_queries`): two int8, 128 * high + low, of
which high is at most 127."""

QUERY = np.dtype(
    [
        ("start", "i8"),
        ("limit", "i8"),  # it attends to positions [start, limit)
        ("first_peak", "f4"),
        ("first_total", "f4"),  # what the softmax of its first span begins with
        ("peak", "f4"),
        ("total", "f4"),  # of the span under way
        ("whole_peak", "f4"),
        ("whole_total", "f4"),  # of the spans that were merged
    ]
)
"""A query row and its softmax so far."""

LATENT_BLOCK = 64
"""Positions whose latents are widened at a time, for all heads of an item of work: 135 KB for latents of 512 values, so
that they stay in the second level of the cache."""

LATENT_BYTES_BLOCK = 128
"""Positions whose latents are multiplied as bytes at a time, where they are (`ops/latent_bytes.py`). In two orders they
take no more room than half as many of float32."""

LATENT_SETS = 2
"""Times QUERY_ROWS heads of a token, at most, that share a pass over the latents."""

TOKEN_BATCH = 48
"""Tokens that pass through a thread's scratch at a time: four of AVX-512's register tiles, three blocks of lanes."""

LANE_TOKENS = 16
"""Tokens of a block, in `lanes.py` and `byte_tiles.py`."""

LANES = np.dtype(
    [
        ("panel", "u1", (2, 4, 64)),  # 16 rows x 32 columns of weights as dot products read them
        ("scales", "f4", (2, 2, 16)),  # of each block of columns the scales of 16 rows, then their offsets
        ("totals", "f4", (TOKEN_BATCH // LANE_TOKENS, 16, LANE_TOKENS)),  # sums [row, token] of every block of tokens
    ]
)
"""A thread's work memory beside the tokens that lie in lanes."""

TILE_GROUPS = 8
"""Groups of 32 columns that are unpacked for one pass over the tokens in `byte_tiles.py`: with the activations of 48
tokens 29 KB, where a core with AMX has 48 KB in its first cache."""

TILES = np.dtype(
    [
        ("panel", "u1", (TILE_GROUPS, 8, 64)),  # 16 rows x 32 columns of weights each, as dot products read them
        ("scales", "f4", (TILE_GROUPS, 2, 2, 16)),  # as in LANES
        ("sums", "i4", (2, LANE_TOKENS, 16)),  # what two products of tiles gave [token, row]
        ("totals", "f4", (TOKEN_BATCH // LANE_TOKENS, LANE_TOKENS, 16)),  # sums [token, row] of every block of tokens
    ]
)
"""A thread's work memory for products of tiles of bytes."""

EXPERT_SCRATCH_BYTES = TOKEN_BATCH * 64 * 4

ACTIVATION = np.dtype([("scale", "f4"), ("sum", "f4"), ("first_sum", "f4"), ("last_sum", "f4")])
"""What is known of a group of int8 activations: its scale, then scale * sum of all of its bytes, of the first 16 and of
the last 16. The sums undo the offsets of weights (`integer_tiles.py`). On tiers that start their sums with that
(`Isa.starts_sums`) they are int32: -RAISED * sum of the bytes."""
RAISED = 64
"""What levels are raised by on such tiers, to be bytes without a sign: those of every scheme lie within -64..63."""
ACTIVATION_BYTES = ACTIVATION.itemsize

PRODUCT = np.dtype(
    [
        ("matrix", "i8"),  # a MATRIX record
        ("f", "i8"),  # float32 [T, cols], for float32 weights
        ("q", "i8"),
        ("s", "i8"),  # int8 [T, cols] and the ACTIVATION records of its groups [T, cols / 32], for others
        ("out", "i8"),  # float32: 16 rows are written at a time, token t's at out + t * out_stride
        ("out_stride", "i8"),  # bytes
        ("tokens", "i8"),
        ("add", "i8"),  # 1: add to `out`, 0: overwrite it
    ]
)
"""A matrix times activations, as callers from outside ask for it."""

BFLOAT16, FLOAT16 = 1, 2
"""Ids of the dtypes of weights to be encoded; 0 is float32."""

WEIGHTS_NOT_FINITE, SCALE_TOO_LARGE, NO_ENCODER = 1, 2, 3
"""What can be wrong with weights to be encoded: NaN or infinity; a scale beyond float16; nothing to encode them."""

ENCODER = np.dtype(
    [
        ("weight", "f4", (GROUP, 16)),  # how much each error of a block [columns, 16 rows] counts
        ("best", "f4", 16),
        ("scale", "f4", 16),
        ("shift", "f4", 16),  # the best candidate so far: what it explains, its scale and shift
        ("stored", "f4", 16),  # the scale as it can be read back
        ("level", "i4", (GROUP, 16)),  # a group's weights before they are packed
    ]
)
"""Scratch memory of the encoder, for one tile; the scales of its blocks follow, float32 [blocks, 16]."""

FEEDBACK_ROWS = 64
"""Rows that are rounded by their output error side by side (`ops/feedback.py`)."""
FEEDBACK_STEP = 32
"""Columns whose errors are spread over all others together."""

FEEDBACK = np.dtype(
    [
        ("columns", "i8"),  # K, a multiple of 32
        ("block", "i8"),  # columns that share a scale, 16 or 32
        ("points", "i8"),  # float32 [count], rising levels; or [count, 2]
        ("count", "i8"),
        ("pairs", "i8"),  # 1: points are of two columns, half a block apart
        ("matrix", "i8"),  # float32 [K / 16, K, 16], panels
        ("order", "i8"),  # int64: columns, or pairs, in the order of GPTQ
        ("w", "i8"),  # float32 [K, 64], what is rounded; of descents and products the values that stand
        ("scale", "i8"),
        ("shift", "i8"),  # float32 [K / block, 64]
        ("index", "i8"),  # int32 [K, 64], or [K / 2, 64] of pairs
        ("slope", "i8"),  # float32 [K, 64]: moments times what is still missing; of products their result
        ("work", "i8"),  # float32 [max(K, 64), 64]
        ("sweeps", "i8"),
    ]
)
"""What the entry points of `ops/feedback.py` are asked for."""


def scratch_bytes(cols: int) -> int:
    """Scratch memory of a thread, for matrices of up to `cols` columns: outputs of experts; then packed tokens,
    int8 with their records, and what multiplies them."""
    work = max(LANES.itemsize, TILES.itemsize)
    return EXPERT_SCRATCH_BYTES + work + TOKEN_BATCH * cols * (GROUP + ACTIVATION_BYTES) // GROUP


def attention_scratch_bytes(width: int) -> int:
    """Scratch memory of a thread, for heads of up to `width` values (`ops/query_tiles.py`)."""
    return QUERY_ROWS * (QUERY.itemsize + 4 * (SCORE_BLOCK + 3 * width)) + QUERY_ROWS * (2 * width + 8)


def latent_scratch_bytes(rank: int) -> int:
    """Scratch memory of a thread, for latents of `rank` values (`ops/latent_tiles.py`)."""
    row = 4 * rank + 64
    each = QUERY.itemsize + 4 * (SCORE_BLOCK + 3 * rank) + row + 2 * LATENT_BYTES_BLOCK + 8
    return LATENT_SETS * QUERY_ROWS * each + LATENT_BLOCK * row


def encode_scratch_bytes(cols: int) -> int:
    """Scratch memory of the encoder: a tile as float32, the same turned, and what a tile needs."""
    return 2 * 64 * cols + ENCODER.itemsize + 64 * (cols // 16)


def offsets(dtype: np.dtype[Any]) -> Any:
    """A named tuple of byte offsets; nested records flatten to `outer_inner` and keep `outer`."""
    places: dict[str, int] = {}
    for name, (inner, offset, *_) in dict(dtype.fields or {}).items():
        places[name] = int(offset)
        if inner.fields:
            places |= {f"{name}_{k}": int(offset) + v for k, v in offsets(inner)._asdict().items()}
    return namedtuple("Offsets", places)(**places)
