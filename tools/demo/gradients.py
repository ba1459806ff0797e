"""Products with gradients of their own: experts over tokens sorted by expert, and the head with its loss.

Knows arrays only; weights and activations are of the type `COMPUTE`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's custom)
from torch import Tensor

_FAST = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
COMPUTE = torch.bfloat16 if _FAST else torch.float32
"""Emulated bfloat16 would be several times slower than float32."""
_ROWS_OF_AN_EXPERT = 128 if COMPUTE is torch.bfloat16 else 8
"""In bfloat16 the library compiles a kernel for every new shape of a product, in 1.5 ms: few shapes, then."""
HEAD_ROWS = 1024
"""Positions whose logits are in memory at a time."""


@torch.compile(dynamic=True)
def _gate(g: Tensor, weight: Tensor) -> Tensor:
    a, b = g.float().chunk(2, 1)
    return (F.silu(a) * b * weight[:, None]).to(COMPUTE)


@torch.compile(dynamic=True)
def _gate_backward(g: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    a, b = g.float().chunk(2, 1)
    d, s = grad.float(), torch.sigmoid(a)
    silu = a * s
    grad_weight = (d * silu * b).sum(1)
    d = d * weight[:, None]
    return torch.cat((d * b * (s + silu * (1 - s)), d * silu), 1).to(COMPUTE), grad_weight


class Experts(torch.autograd.Function):
    """Sum over the chosen experts of weight * expert(u), with the tokens sorted by expert."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weights: Tensor, chosen: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        tokens, k = chosen.shape
        pairs, places, ends = _sorted_by_expert(chosen.reshape(-1), len(w13))
        xs = u.index_select(0, pairs // k)
        ws = torch.zeros(len(pairs))
        ws[places] = weights.reshape(-1)
        g = torch.empty(len(pairs), w13.shape[1], dtype=COMPUTE)
        for e, (first, last) in enumerate(_ranges(ends)):
            torch.mm(xs[first:last], w13[e].t(), out=g[first:last])
        a = _gate(g, ws)
        y = torch.empty(len(pairs), u.shape[1], dtype=COMPUTE)
        for e, (first, last) in enumerate(_ranges(ends)):
            torch.mm(a[first:last], w2[e].t(), out=y[first:last])
        ctx.save_for_backward(xs, ws, g, a, pairs, places, w13, w2)
        ctx.ends, ctx.k = ends, k
        return F.embedding_bag(places.view(tokens, k), y, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        xs, ws, g, a, pairs, places, w13, w2 = ctx.saved_tensors
        dys = grad.contiguous().index_select(0, pairs // ctx.k)
        da, dw13, dw2 = torch.empty_like(a), torch.zeros_like(w13), torch.zeros_like(w2)
        for e, (first, last) in enumerate(_ranges(ctx.ends)):
            torch.mm(dys[first:last], w2[e], out=da[first:last])
            torch.mm(dys[first:last].t(), a[first:last], out=dw2[e])
        dg, dws = _gate_backward(g, ws, da)
        dxs = torch.empty_like(xs)
        for e, (first, last) in enumerate(_ranges(ctx.ends)):
            torch.mm(dg[first:last], w13[e], out=dxs[first:last])
            torch.mm(dg[first:last].t(), xs[first:last], out=dw13[e])
        du = F.embedding_bag(places.view(-1, ctx.k), dxs, mode="sum")
        return du, dws[places].view(-1, ctx.k), None, dw13, dw2


def _sorted_by_expert(experts: Tensor, count: int) -> tuple[Tensor, Tensor, list[int]]:
    """Rows by expert: the pair (token, choice) of each row, each pair's row, and where an expert's rows end.

    An expert's rows are filled up to a multiple of `_ROWS_OF_AN_EXPERT` with pair 0, whose weight is 0 there.
    """
    order = torch.argsort(experts)
    counts = torch.bincount(experts, minlength=count)
    filled = -(-counts // _ROWS_OF_AN_EXPERT) * _ROWS_OF_AN_EXPERT
    shift = (filled.cumsum(0) - filled) - (counts.cumsum(0) - counts)
    rows = torch.arange(len(experts)) + shift.index_select(0, experts.index_select(0, order))
    pairs = torch.zeros(int(filled.sum()), dtype=torch.int64)
    pairs[rows] = order
    places = torch.empty_like(order)
    places[order] = rows
    return pairs, places, filled.cumsum(0).tolist()


def _ranges(ends: list[int]) -> zip:
    return zip([0, *ends[:-1]], ends, strict=True)


@torch.compile(dynamic=False)
def _cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of some positions, and the gradient of their weighted sum with respect to the logits."""
    logits = logits.float()
    total = torch.logsumexp(logits, -1, keepdim=True)
    losses = total[:, 0] - logits.gather(1, targets[:, None])[:, 0]
    hit = torch.arange(logits.shape[1])[None] == targets[:, None]
    return losses, ((torch.exp(logits - total) - hit.float()) * weight[:, None]).to(COMPUTE)


class HeadLoss(torch.autograd.Function):
    """Sum of weight * cross entropy with the tied head; the gradient is made on the way."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, embedding: Tensor, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        du, de, losses = torch.empty_like(u), torch.zeros(embedding.shape), torch.empty(len(u))
        for first in range(0, len(u), HEAD_ROWS):
            part = slice(first, first + HEAD_ROWS)
            losses[part], d = _cross_entropy(u[part] @ embedding.t(), targets[part], weight[part])
            torch.mm(d, embedding, out=du[part])
            de += d.t() @ u[part]
        ctx.save_for_backward(du, de)
        return (losses * weight).sum(), losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        du, de = ctx.saved_tensors
        return du * grad, (de * grad).to(COMPUTE), None, None
