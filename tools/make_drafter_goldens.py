"""Make tests/data/drafter_goldens.json: drafts of tiny random drafters, by a transcription of their network in torch.

    python tools/make_drafter_goldens.py    (needs torch; the tests do not)

The transcription reads the published layout, with its interleaved rotary pairs. For a drafter that was trained in this
layout, llama.cpp's `draft-dspark` (of 2026-10-01) gave the same 8 drafts in all of 63 rounds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

OUTPUT = Path(__file__).parent.parent / "tests/data/drafter_goldens.json"
HIDDEN, VOCAB, TARGET_LAYERS, TOKENS, ROUNDS = 64, 192, 6, 14, (1, 5, 9, 14)
CASES: dict[str, dict[str, Any]] = {
    "one-layer": {"num_hidden_layers": 1, "block_size": 2, "target_layer_ids": [2]},
    "two-layers": {"num_hidden_layers": 2, "block_size": 5, "target_layer_ids": [0, 3, 5]},
    "five-taps": {"num_hidden_layers": 3, "block_size": 9, "target_layer_ids": [0, 1, 2, 4, 5]},
    "no-groups": {"num_hidden_layers": 2, "block_size": 8, "num_key_value_heads": 4, "target_layer_ids": [1, 3]},
    "half-turns": {"num_hidden_layers": 1, "block_size": 4, "target_layer_ids": [1, 3], "rope_is_neox_style": True},
}


def config_of(case: str) -> dict[str, Any]:
    """A `config.json` in the published form."""
    values = dict(CASES[case])
    section = {"mask_token_id": 3, "target_layer_ids": values.pop("target_layer_ids")}
    return {
        "architectures": ["Lfm2DSparkDraftModel"], "model_type": "qwen3", "hidden_size": HIDDEN,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "vocab_size": VOCAB, "rope_theta": 1e4,
        "rope_is_neox_style": False, "max_position_embeddings": 512, "markov_rank": 32, "markov_head_type": "vanilla",
        "enable_confidence_head": True, "dtype": "float32",
        "dflash_config": section | {"num_target_layers": TARGET_LAYERS},
    } | values  # fmt: skip


def tensors_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """A drafter's weights under their published names, random."""
    rng, hidden = np.random.default_rng(1), config["hidden_size"]
    vocab, rank = config["vocab_size"], config["markov_rank"]
    taps, width, ffn = len(config["dflash_config"]["target_layer_ids"]), config["head_dim"], config["intermediate_size"]
    heads, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width

    def matrix(rows: int, cols: int, gain: float = 1.0) -> np.ndarray:
        return (rng.standard_normal((rows, cols)) * gain / cols**0.5).astype(np.float32)

    def norm(size: int) -> np.ndarray:
        return (1 + 0.2 * rng.standard_normal(size)).astype(np.float32)

    out = {"fc.weight": matrix(hidden, taps * hidden), "hidden_norm.weight": norm(hidden), "norm.weight": norm(hidden)}
    for n in range(config["num_hidden_layers"]):
        at = f"layers.{n}."
        shapes = {"q_proj": (heads, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, heads)}
        out |= {f"{at}self_attn.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        out |= {f"{at}self_attn.{name}.weight": norm(width) for name in ("q_norm", "k_norm")}
        out |= {f"{at}{name}.weight": norm(hidden) for name in ("input_layernorm", "post_attention_layernorm")}
        out |= {f"{at}mlp.{name}.weight": matrix(ffn, hidden) for name in ("gate_proj", "up_proj")}
        out[f"{at}mlp.down_proj.weight"] = matrix(hidden, ffn)
    out |= {f"markov_head.markov_w{n}.weight": matrix(vocab, rank, 3.0) for n in (1, 2)}
    out["confidence_head.proj.weight"] = matrix(1, hidden + rank)
    out["confidence_head.proj.bias"] = np.array([0.3], np.float32)
    return out


def inputs_of(case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The target's embedding, which is its head too, [V, H]; its tapped streams [T, taps * H]; token ids [T + 1]."""
    taps, rng = len(CASES[case]["target_layer_ids"]), np.random.default_rng(7)
    embedding = rng.standard_normal((VOCAB, HIDDEN)).astype(np.float32)
    return (
        embedding,
        rng.standard_normal((TOKENS, taps * HIDDEN)).astype(np.float32),
        rng.integers(0, VOCAB, TOKENS + 1),
    )


def rounds_of(case: str) -> list[dict[str, list[float]]]:
    """Drafts and confidences after some of the tokens; all in torch."""
    import torch
    import torch.nn.functional as F  # noqa: N812 (torch's custom)

    config = config_of(case)
    weights = {name: torch.tensor(value) for name, value in tensors_of(config).items()}
    embedding, streams, ids = (torch.tensor(value) for value in inputs_of(case))
    width, slots, section = config["head_dim"], config["block_size"], config["dflash_config"]
    frequencies = config["rope_theta"] ** (-torch.arange(0, width, 2).float() / width)

    def norm(x: Any, name: str) -> Any:
        return weights[f"{name}.weight"] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"])

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, weights[f"{name}.weight"])

    def turn(x: Any, positions: Any) -> Any:
        angles = positions.float()[:, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        if config["rope_is_neox_style"]:
            a, b = x.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)

    def heads(x: Any, name: str) -> Any:
        return linear(x, name).view(len(x), -1, width).transpose(0, 1)

    def keys_values(x: Any, at: str, positions: Any) -> tuple[Any, Any]:
        return turn(norm(heads(x, f"{at}k_proj"), f"{at}k_norm"), positions), heads(x, f"{at}v_proj")

    out = []
    for n in ROUNDS:
        context, here, places = norm(linear(streams[:n], "fc"), "hidden_norm"), torch.arange(n), torch.arange(slots) + n
        h = embedding[[int(ids[n])] + [section["mask_token_id"]] * (slots - 1)]
        for layer in range(config["num_hidden_layers"]):
            at = f"layers.{layer}.self_attn."
            u = norm(h, f"layers.{layer}.input_layernorm")
            q = turn(norm(heads(u, f"{at}q_proj"), f"{at}q_norm"), places)
            far, near = keys_values(context, at, here), keys_values(u, at, places)
            k, v = (torch.cat(pair, 1) for pair in zip(far, near, strict=True))
            mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], enable_gqa=True)[0]
            h = h + linear(mixed.transpose(0, 1).reshape(slots, -1), f"{at}o_proj")
            u = norm(h, f"layers.{layer}.post_attention_layernorm")
            at = f"layers.{layer}.mlp."
            h = h + linear(F.silu(linear(u, f"{at}gate_proj")) * linear(u, f"{at}up_proj"), f"{at}down_proj")
        hidden, last = norm(h, "norm"), int(ids[n])
        drafts, confidences = [], []
        for row in hidden:
            e = weights["markov_head.markov_w1.weight"][last]
            confidence = linear(torch.cat((row, e)), "confidence_head.proj") + weights["confidence_head.proj.bias"]
            last = int((embedding @ row + linear(e, "markov_head.markov_w2")).argmax())
            drafts.append(last)
            confidences.append(round(float(torch.sigmoid(confidence)), 6))
        out.append({"drafts": drafts, "confidences": confidences})
    return out


def main() -> None:
    OUTPUT.write_text(json.dumps({case: rounds_of(case) for case in CASES}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
