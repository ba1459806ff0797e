"""A DSpark drafter for training: the published names and the published forward pass, in float32.

Between the two: keys and values of what the target has read are made from its residual streams (`taps`); a block of
`BLOCK` slots attends to them and to itself in both directions. (SpecForge's and speculators' DSpark; rotary pairs are
(2i, 2i + 1).) Knows no data.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's custom)
from torch import Tensor, nn

from demo import network

HIDDEN, VOCAB, EPS = network.CONFIG["hidden_size"], network.CONFIG["vocab_size"], 1e-5
HEADS, KV_HEADS, WIDTH, FFN, LAYERS = 4, 2, 64, 320, 2
TAPS, BLOCK, RANK, MASK = [2, 3, 4, 5, 6], 8, 32, 0
"""After which of the target's layers its stream is taken; slots; rank of the Markov head; the token of empty slots."""
THETA = network.CONFIG["rope_theta"]

CONFIG: dict[str, Any] = {
    "architectures": ["Lfm2DSparkDraftModel"],
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": WIDTH,
    "intermediate_size": FFN,
    "hidden_act": "silu",
    "rms_norm_eps": EPS,
    "vocab_size": VOCAB,
    "rope_theta": THETA,
    "rope_is_neox_style": False,
    "max_position_embeddings": network.CONFIG["max_position_embeddings"],
    "layer_types": ["full_attention"] * LAYERS,
    "block_size": BLOCK,
    "dflash_config": {
        "mask_token_id": MASK,
        "target_layer_ids": TAPS,
        "num_target_layers": network.CONFIG["num_hidden_layers"],
    },
    "markov_rank": RANK,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "dtype": "bfloat16",
}
_FREQUENCIES = THETA ** (-torch.arange(0, WIDTH, 2).float() / WIDTH)


class _Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def _matrix(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.o_proj = _matrix(HIDDEN, HEADS * WIDTH), _matrix(HEADS * WIDTH, HIDDEN)
        self.k_proj, self.v_proj = _matrix(HIDDEN, KV_HEADS * WIDTH), _matrix(HIDDEN, KV_HEADS * WIDTH)
        self.q_norm, self.k_norm = _Norm(WIDTH), _Norm(WIDTH)

    def keys_values(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of x [rows, N, H] at positions [rows, N]: [rows, KV_HEADS, N, WIDTH] each."""
        rows, count, _ = x.shape
        keys = self.k_norm(self.k_proj(x).view(rows, count, KV_HEADS, WIDTH)).transpose(1, 2)
        return _turn(keys, positions), self.v_proj(x).view(rows, count, KV_HEADS, WIDTH).transpose(1, 2)


class _Ffn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = _matrix(HIDDEN, FFN), _matrix(HIDDEN, FFN), _matrix(FFN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = _Attention(), _Ffn()
        self.input_layernorm, self.post_attention_layernorm = _Norm(HIDDEN), _Norm(HIDDEN)


class _Markov(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.markov_w1, self.markov_w2 = nn.Embedding(VOCAB, RANK), _matrix(RANK, VOCAB)
        nn.init.normal_(self.markov_w1.weight, std=0.01)
        nn.init.zeros_(self.markov_w2.weight)  # what is in no answer implies nothing


class _Confidence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(HIDDEN + RANK, 1)


class Drafter(nn.Module):
    """The whole drafter; embedding and head are the target's."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.hidden_norm, self.norm = _matrix(len(TAPS) * HIDDEN, HIDDEN), _Norm(HIDDEN), _Norm(HIDDEN)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.markov_head, self.confidence_head = _Markov(), _Confidence()
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and "markov" not in name:
                gain = 0.3 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(parameter, std=gain * parameter.shape[1] ** -0.5)

    def forward(self, taps: Tensor, context: Tensor, h: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Hidden [rows, N, H], normed, of blocks h [rows, N, H], embedded, at positions [rows, N].

        taps [rows, S, taps * H] at positions `context` [rows, S]; mask [rows, N, S + N]: who attends to whom.
        """
        read = self.hidden_norm(self.fc(taps))
        for layer in self.layers:
            attention, u = layer.self_attn, layer.input_layernorm(h)
            rows, count, _ = u.shape
            q = _turn(attention.q_norm(attention.q_proj(u).view(rows, count, HEADS, WIDTH)).transpose(1, 2), positions)
            far, near = attention.keys_values(read, context), attention.keys_values(u, positions)
            keys, values = (torch.cat(pair, 2) for pair in zip(far, near, strict=True))
            mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask[:, None], enable_gqa=True)
            h = h + attention.o_proj(mixed.transpose(1, 2).reshape(rows, count, -1))
            h = h + layer.mlp(layer.post_attention_layernorm(h))
        out: Tensor = self.norm(h)
        return out


def _turn(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary over pairs (2i, 2i + 1) of x [rows, heads, N, WIDTH] at positions [rows, N]."""
    angles = positions.float()[:, None, :, None] * _FREQUENCIES
    cos, sin = angles.cos(), angles.sin()
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
