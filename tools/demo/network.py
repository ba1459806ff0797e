"""LFM2-MoE for training on a CPU, with the weights in the hub's layout.

bfloat16 weights and products where the processor has them, float32 residual stream and router; neither attention nor
the short convolution sees another document; tokens are sorted by expert. Knows no optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's custom)
from torch import Tensor, nn

from demo.gradients import COMPUTE, HEAD_ROWS, Experts, HeadLoss

CONFIG: dict[str, Any] = {
    "architectures": ["Lfm2MoeForCausalLM"],
    "model_type": "lfm2_moe",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 384,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 8,
    "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention", "conv", "full_attention", "conv"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_dense_layers": 2,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "tie_embedding": True,
    "initializer_range": 0.02,
    "use_cache": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 7,
    "dtype": "bfloat16",
}


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    x = x.float()
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight).to(COMPUTE)


@torch.compile(dynamic=False)
def _conv(h: Tensor, norm: Tensor, w_in: Tensor, taps: Tensor, w_out: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """h + out_proj(C * conv(B * x)); `one`, `two`: 0 where the token so far back is of another document."""
    b, c, x = F.linear(_rms(h, norm), w_in).chunk(3, -1)
    g = (b * x).float()
    mixed = g * taps[:, 2] + F.pad(g, (0, 0, 1, 0))[:, :-1] * one * taps[:, 1]
    mixed = mixed + F.pad(g, (0, 0, 2, 0))[:, :-2] * two * taps[:, 0]
    return h + F.linear((c.float() * mixed).to(COMPUTE), w_out).float()


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


@torch.compile(dynamic=False)
def _queries(h: Tensor, p: Any, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [rows * T, heads, hd] of the normed input."""
    rows, tokens, _ = h.shape
    width = p["qn"].shape[0]
    u = _rms(h, p["operator_norm"])
    q, k, v = (F.linear(u, p[name]).view(rows, tokens, -1, width) for name in ("q", "kk", "v"))
    q, k = _turn(_rms(q, p["qn"]).float(), cos, sin).to(COMPUTE), _turn(_rms(k, p["kn"]).float(), cos, sin).to(COMPUTE)
    return q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)


def _attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Every token attends to its document as far as itself: [tokens, heads, hd].

    Document by document: with a mask over rows of 512 it is four times the work, of 2,048 sixteen times.
    """
    mixed = [
        F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in qkv), is_causal=True, enable_gqa=True)
        for qkv in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    ]
    return torch.cat([m[0].transpose(0, 1) for m in mixed])


def _lengths(documents: Tensor) -> list[int]:
    """Tokens of each document of [rows, T] document numbers, row after row."""
    first = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True).flatten().nonzero()[:, 0]
    return torch.diff(first, append=torch.tensor([documents.numel()])).tolist()


@torch.compile(dynamic=False)
def _attended(h: Tensor, mixed: Tensor, out: Tensor) -> Tensor:
    return h + F.linear(mixed.view(h.shape), out).float()


@torch.compile(dynamic=False)
def _dense(h: Tensor, norm: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
    u = _rms(h, norm)
    return h + F.linear(F.silu(F.linear(u, w1).float()).to(COMPUTE) * F.linear(u, w3), w2).float()


@torch.compile(dynamic=False)
def _scores(h: Tensor, norm: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    u = _rms(h, norm).flatten(0, 1)
    return u, torch.sigmoid(F.linear(u.float(), gate))


@torch.compile(dynamic=False)
def _shares(scores: Tensor, chosen: Tensor) -> Tensor:
    weights = scores.gather(1, chosen)
    return weights / (weights.sum(-1, keepdim=True) + 1e-6)


class Network(nn.Module):
    """The whole network. Parameters of layers go by short names; `hub_tensors` gives them the hub's."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator, config = torch.Generator().manual_seed(seed), CONFIG
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        experts, width = config["num_experts"], config["moe_intermediate_size"]
        head = hidden // config["num_attention_heads"]
        kv, small = config["num_key_value_heads"] * head, (2 * layers) ** -0.5

        def matrix(*shape: int, gain: float = 1.0) -> nn.Parameter:
            return nn.Parameter((torch.randn(*shape, generator=generator) * gain / shape[-1] ** 0.5).to(COMPUTE))

        def ones(size: int) -> nn.Parameter:
            return nn.Parameter(torch.ones(size))

        self.embedding = nn.Parameter(
            (torch.randn(config["vocab_size"], hidden, generator=generator) * 0.03).to(COMPUTE)
        )
        self.norm = ones(hidden)
        self.expert_bias = torch.zeros(layers, experts)
        self.layers = nn.ModuleList()
        for n in range(layers):
            p: dict[str, nn.Parameter] = {"operator_norm": ones(hidden), "ffn_norm": ones(hidden)}
            if config["layer_types"][n] == "conv":
                taps = torch.randn(hidden, 3, generator=generator) * 0.1
                taps[:, 2] += 1.0
                p |= {"in_proj": matrix(3 * hidden, hidden), "taps": nn.Parameter(taps)}
                p |= {"out_proj": matrix(hidden, hidden, gain=small)}
            else:
                p |= {"q": matrix(hidden, hidden), "kk": matrix(kv, hidden), "v": matrix(kv, hidden)}
                p |= {"o": matrix(hidden, hidden, gain=small), "qn": ones(head), "kn": ones(head)}
            if n < config["num_dense_layers"]:
                dense = config["intermediate_size"]
                p |= {"w1": matrix(dense, hidden), "w3": matrix(dense, hidden), "w2": matrix(hidden, dense, gain=small)}
            else:
                p["gate"] = nn.Parameter(torch.randn(experts, hidden, generator=generator) * 0.02)
                p |= {"w13": matrix(experts, 2 * width, hidden), "w2": matrix(experts, hidden, width, gain=2 * small)}
            self.layers.append(nn.ParameterDict(p))
        inverse = config["rope_theta"] ** (-torch.arange(0, head, 2).float() / head)
        angles = torch.arange(config["max_position_embeddings"]).float()[:, None] * inverse
        self.cos, self.sin = angles.cos()[:, None], angles.sin()[:, None]  # [T, 1, hd / 2]

    def forward(self, ids: Tensor, documents: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Weighted loss of a batch [rows, T]; positions that were scored [n], their losses, and loads by layer [E].

        Of lightly weighted positions only a random part goes through the head, at weights raised to match.
        """
        h, loads, _ = self._hidden(ids, documents)
        targets, weights = targets.reshape(-1), weights.reshape(-1)
        scored, weight = _scored_positions(weights)
        u = _final(h, self.norm).index_select(0, scored)
        loss, losses = HeadLoss.apply(u, self.embedding, targets[scored], weight)
        return loss, scored, losses, torch.stack(loads)

    def features(self, ids: Tensor, documents: Tensor, tapped: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The stream after each tapped layer, joined [rows, T, taps * H], and the logits' input [rows, T, H]."""
        h, _, streams = self._hidden(ids, documents)
        return torch.cat([streams[n] for n in tapped], -1), _rms(h, self.norm).float()

    def _hidden(self, ids: Tensor, documents: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The residual stream after the last layer, the experts' loads, and the stream after each layer."""
        tokens = ids.shape[1]

        def same(back: int) -> Tensor:
            return (F.pad(documents, (back, 0), value=-1)[:, :tokens] == documents).float()[..., None]

        one, two = same(1), same(2)
        lengths = _lengths(documents)
        cos, sin = self.cos[:tokens], self.sin[:tokens]
        h = F.embedding(ids, self.embedding).float()
        loads: list[Tensor] = []
        streams: list[Tensor] = []
        for n, p in enumerate(self.layers):
            if "in_proj" in p:
                h = _conv(h, p["operator_norm"], p["in_proj"], p["taps"], p["out_proj"], one, two)
            else:
                q, k, v = _queries(h, dict(p.items()), cos, sin)
                h = _attended(h, _attention(q, k, v, lengths), p["o"])
            if "gate" not in p:
                h = _dense(h, p["ffn_norm"], p["w1"], p["w3"], p["w2"])
                streams.append(h)
                continue
            u, scores = _scores(h, p["ffn_norm"], p["gate"])
            with torch.no_grad():
                chosen = torch.topk(scores + self.expert_bias[n], CONFIG["num_experts_per_tok"], dim=-1)[1]
                loads.append(torch.bincount(chosen.reshape(-1), minlength=scores.shape[1]))
            h = h + Experts.apply(u, _shares(scores, chosen), chosen, p["w13"], p["w2"]).view(h.shape).float()
            streams.append(h)
        return h, loads, streams

    def hub_tensors(self) -> dict[str, Tensor]:
        """The weights under the hub's names, bfloat16; the selection bias float32."""
        out = {}
        for name, part in self._hub_parts():
            kept = torch.float32 if name.endswith("expert_bias") else torch.bfloat16
            out[name] = part.detach().to(kept).clone().contiguous()
        return out

    @torch.no_grad()
    def load_hub(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights over that `hub_tensors` gave."""
        for name, part in self._hub_parts():
            part.copy_(tensors[name])

    def _hub_parts(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight's name at the hub, and the part of a parameter that it is."""
        yield "model.embed_tokens.weight", self.embedding
        yield "model.embedding_norm.weight", self.norm
        width = CONFIG["moe_intermediate_size"]
        attention = {
            "q": "q_proj",
            "kk": "k_proj",
            "v": "v_proj",
            "o": "out_proj",
            "qn": "q_layernorm",
            "kn": "k_layernorm",
        }
        for n, p in enumerate(self.layers):
            at = f"model.layers.{n}."
            for name in ("operator_norm", "ffn_norm"):
                yield f"{at}{name}.weight", p[name]
            if "in_proj" in p:
                for name in ("in_proj", "out_proj"):
                    yield f"{at}conv.{name}.weight", p[name]
                yield f"{at}conv.conv.weight", p["taps"][:, None]
            else:
                for name, hub in attention.items():
                    yield f"{at}self_attn.{hub}.weight", p[name]
            if "gate" not in p:
                for name in ("w1", "w3", "w2"):
                    yield f"{at}feed_forward.{name}.weight", p[name]
                continue
            yield f"{at}feed_forward.gate.weight", p["gate"]
            yield f"{at}feed_forward.expert_bias", self.expert_bias[n]
            for e in range(CONFIG["num_experts"]):
                expert = {"w1": p["w13"][e, :width], "w3": p["w13"][e, width:], "w2": p["w2"][e]}
                for name, part in expert.items():
                    yield f"{at}feed_forward.experts.{e}.{name}.weight", part


@torch.compile(dynamic=False)
def _final(h: Tensor, norm: Tensor) -> Tensor:
    return _rms(h, norm).flatten(0, 1)


def _scored_positions(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Positions for the head, a multiple of `HEAD_ROWS`, and the weights of their losses."""
    heavy = (weights >= 0.3).nonzero()[:, 0]
    light = ((weights > 0) & (weights < 0.3)).nonzero()[:, 0]
    count = min(-(-(len(heavy) + 200) // HEAD_ROWS) * HEAD_ROWS, len(weights) // HEAD_ROWS * HEAD_ROWS)
    taken = light[torch.randperm(len(light))[: max(0, count - len(heavy))]]
    positions = torch.cat((heavy[:count], taken))
    weight = weights[positions].clone()
    if len(taken):
        weight[len(heavy) :] *= len(light) / len(taken)
    filling = count - len(positions)
    positions = torch.cat((positions, positions[:1].expand(filling)))
    return positions, torch.cat((weight, torch.zeros(filling)))
