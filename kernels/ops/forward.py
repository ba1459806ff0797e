"""The forward pass of a step, as every thread of the team runs it: embedding, layers, head.

Stages: 0 is the embedding; 1 + 3n the operator of layer n and the choice of its experts; 2 + 3n and 3 + 3n the two
phases of its FFN; 1 + 3N the final norm and the head, or its screen; 2 + 3N what of the head a screened step asks for.
A resident model runs all stages but the last in one call; a paged one stops after each choice of experts, so that
Python can bring the missing ones in.

    h = h + operator(norm(h));  h = h + ffn(norm(h));  logits = head(norm(h))

Where a layer norms what it adds, that is summed in `branch`; the norm that follows adds it (`norm.add_branch`).
"""

from numba import int64

from edge_lfm.kernels.lang.parts import entry
from edge_lfm.kernels.lang.simd import i64, kernel, smaller
from edge_lfm.kernels.lang.sync import barrier, claim_run
from edge_lfm.kernels.ops.attention import attend_tokens, prepare_heads
from edge_lfm.kernels.ops.embedding import embed_tokens
from edge_lfm.kernels.ops.experts import down, gate_up, gather_pairs
from edge_lfm.kernels.ops.latent import apply_latents
from edge_lfm.kernels.ops.matmul import multiply_matrix, multiply_rows
from edge_lfm.kernels.ops.norm import branch_sum, norm_asked, norm_tokens
from edge_lfm.kernels.ops.operands import Inputs, Outputs, from_token
from edge_lfm.kernels.ops.router import one_segment, route
from edge_lfm.kernels.ops.short_conv import conv_tokens
from edge_lfm.kernels.spec.layout import CONTEXT, EXPERT_SCRATCH_BYTES, LAYER, offsets

CTX, LAY = offsets(CONTEXT), offsets(LAYER)
LAYER_BYTES = LAYER.itemsize


@kernel
def normed_inputs(ctx):
    """What the last norm wrote, as inputs of a matrix."""
    return Inputs(i64(ctx + CTX.normed), i64(ctx + CTX.normed_q), i64(ctx + CTX.normed_s))


@kernel
def post_norm_before(ctx, n):
    """The post norm of the FFN of the layer before layer `n`, or 0."""
    return i64(i64(ctx + CTX.layers) + (n - 1) * LAYER_BYTES + LAY.post_ffn_norm) if n > 0 else int64(0)


@kernel
def apply_operator(ctx, layer, n, scratch):
    """x += out_proj(short conv or attention of norm(x)); `n`: the layer's number."""
    tokens, hidden, area = i64(ctx + CTX.tokens), i64(ctx + CTX.hidden), scratch + EXPERT_SCRATCH_BYTES
    norm_tokens(ctx, i64(layer + LAY.operator_norm), post_norm_before(ctx, n))
    barrier(ctx)
    wide = Outputs(i64(ctx + CTX.wide), i64(layer + LAY.in_proj_rows) * 4, int64(0))
    multiply_matrix(ctx, layer + LAY.in_proj, normed_inputs(ctx), wide, tokens, area)
    barrier(ctx)
    if i64(layer + LAY.latent) != 0:
        apply_latents(ctx, layer, n, scratch)
    elif i64(layer + LAY.is_attention) != 0:
        if i64(layer + LAY.gate_rows) != 0:
            gates = Outputs(i64(ctx + CTX.gates), (i64(layer + LAY.gate_rows) + 15) // 16 * 64, int64(0))
            multiply_matrix(ctx, layer + LAY.gate, normed_inputs(ctx), gates, tokens, area)
            barrier(ctx)
        prepare_heads(ctx, layer, n)
        barrier(ctx)
        attend_tokens(ctx, layer, n, scratch)
    else:
        conv_tokens(ctx, layer, n)
    barrier(ctx)
    mixed = Inputs(i64(ctx + CTX.mixed), i64(ctx + CTX.mixed_q), i64(ctx + CTX.mixed_s))
    post_norm = i64(layer + LAY.post_operator_norm)
    added = Outputs(branch_sum(ctx, post_norm), hidden * 4, int64(1) if post_norm == 0 else int64(0))
    multiply_matrix(ctx, layer + LAY.out_proj, mixed, added, tokens, area)
    barrier(ctx)


@entry
def apply_ffn(ctx, layer, scratch):
    """x or branch += the chosen experts of normed, or the dense FFN."""
    if i64(layer + LAY.is_moe) != 0 and i64(ctx + CTX.tokens) > 1:
        gather_pairs(ctx, layer)
        barrier(ctx)
    gate_up(ctx, layer, scratch)
    barrier(ctx)
    down(ctx, layer, scratch)
    barrier(ctx)


@kernel
def choose_experts(ctx, layer, thread, scratch):
    """norm(x) -> normed; its router logits -> the pairs of the layer's FFN; the FFN beside experts, all of it."""
    tokens, shared = i64(ctx + CTX.tokens), i64(layer + LAY.shared)
    norm_tokens(ctx, i64(layer + LAY.ffn_norm), i64(layer + LAY.post_operator_norm))
    if shared != 0 and thread == 0:
        one_segment(tokens, i64(ctx + CTX.segments), i64(ctx + CTX.pair_token), i64(ctx + CTX.pair_weight))
    barrier(ctx)
    if shared != 0:
        apply_ffn(ctx, shared, scratch)
    if i64(layer + LAY.is_moe) != 0:
        logits = Outputs(i64(ctx + CTX.router_logits), ((i64(ctx + CTX.experts) + 15) // 16) * 64, int64(0))
        multiply_matrix(ctx, layer + LAY.router, normed_inputs(ctx), logits, tokens, int64(0))
        barrier(ctx)
    if thread == 0:
        route(ctx, layer)
    barrier(ctx)
    if i64(layer + LAY.is_moe) != 0 and i64(ctx + CTX.tokens) > 1:
        gather_pairs(ctx, layer)
        barrier(ctx)


@kernel
def compute_logits(ctx, scratch):
    """The final norm and the head, or its screen, for the rows whose logits are asked for."""
    count = i64(ctx + CTX.logit_rows)
    if count == 0:
        return
    norm_asked(ctx, i64(ctx + CTX.final_norm), post_norm_before(ctx, i64(ctx + CTX.layer_count)))
    barrier(ctx)
    matrix = ctx + CTX.screen if i64(ctx + CTX.screened) != 0 else ctx + CTX.head
    logits = Outputs(i64(ctx + CTX.logits), logits_stride(ctx), int64(0))
    multiply_matrix(ctx, matrix, normed_inputs(ctx), logits, count, scratch + EXPERT_SCRATCH_BYTES)
    barrier(ctx)


@kernel
def logits_stride(ctx):
    """Bytes of a row of logits."""
    return (i64(ctx + CTX.head_rows) + 15) // 16 * 64


@kernel
def compute_exact(ctx, scratch):
    """The tiles of the head that `exact` names: their logits replace those of the screen."""
    count, hidden, stride = i64(ctx + CTX.exact_tiles), i64(ctx + CTX.hidden), logits_stride(ctx)
    while True:
        first, run = claim_run(ctx, count)
        if first >= count:
            break
        for n in range(first, smaller(first + run, count)):
            row, tile = i64(i64(ctx + CTX.exact) + 16 * n), i64(i64(ctx + CTX.exact) + 16 * n + 8)
            x = from_token(normed_inputs(ctx), row, hidden)
            out = Outputs(i64(ctx + CTX.logits) + row * stride, stride, int64(0))
            multiply_rows(ctx + CTX.head, tile, tile + 1, x, out, int64(1), scratch + EXPERT_SCRATCH_BYTES)
    barrier(ctx)


@entry
def forward(ctx, thread, first, last):
    """Run stages [first, last) of the step as thread `thread` of the team."""
    scratch = i64(ctx + CTX.scratch) + thread * i64(ctx + CTX.scratch_bytes)
    layers = i64(ctx + CTX.layer_count)
    for stage in range(first, last):
        n, part = (stage - 1) // 3, (stage - 1) % 3
        layer = i64(ctx + CTX.layers) + n * LAYER_BYTES
        if stage == 0:
            embed_tokens(ctx)
            barrier(ctx)
        elif stage == 1 + 3 * layers:
            compute_logits(ctx, scratch)
        elif stage == 2 + 3 * layers:
            compute_exact(ctx, scratch)
        elif part == 0:
            apply_operator(ctx, layer, n, scratch)
            choose_experts(ctx, layer, thread, scratch)
        elif part == 1:
            gate_up(ctx, layer, scratch)
            barrier(ctx)
        else:
            down(ctx, layer, scratch)
            barrier(ctx)
