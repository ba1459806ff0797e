"""gpt-oss so far: its config, and the reference beside transformers. The kernels refuse it, and no command reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import DATA, FLOAT_SCHEMES, goldens_tool

from edge_lfm.architectures import decoder, gpt_oss, read_shape
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.kernels.spec.ref import F32
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel, ReferenceState
from edge_lfm.shape import Attention, Ffn, Gated, Layer, Rope, Router, Shape, Yarn

CASES: dict[str, dict] = json.loads((DATA / "reference_goldens.json").read_text(encoding="utf-8"))
PUBLISHED = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "max_position_embeddings": 131072,
    "attention_bias": True,
    "eos_token_id": 200002,
}


def shape_of(raw: dict) -> Shape:
    return gpt_oss.read(ConfigReader(raw, "config.json", "hint"))


class HubWeights:
    """Canonical names of the hub's tensors: experts are fused there, input first, rows of w1 and w3 in turn."""

    def __init__(self, raw: dict) -> None:
        self._raw = raw

    def __call__(self, name: str) -> F32:
        if "layers." not in name:
            shape = (self._raw["vocab_size"], self._raw["hidden_size"])
            return self._draw(decoder.NAMES.get(name, name), shape[1:] if "norm" in name else shape)
        number, _, rest = name.removeprefix("model.layers.").partition(".")
        at = f"model.layers.{number}."
        if ".experts." in rest:
            return self._expert(at, *rest.split(".")[2:])
        if rest.startswith("feed_forward.gate."):
            experts, last = self._raw["num_local_experts"], rest.rpartition(".")[2]
            return self._draw(f"{at}mlp.router.{last}", (experts, self._raw["hidden_size"])[: 1 + (last == "weight")])
        spelt = decoder.NAMES.get(rest, rest.replace("out_proj", "o_proj"))
        return self._draw(at + spelt, self._attention_shape(rest))

    def _draw(self, name: str, shape: tuple[int, ...]) -> F32:
        values: F32 = goldens_tool.random_weights(name, shape)
        return values

    def _attention_shape(self, rest: str) -> tuple[int, ...]:
        raw = self._raw
        hidden, q = raw["hidden_size"], raw["num_attention_heads"] * raw["head_dim"]
        rows = {"q": q, "o": hidden}.get(rest[10:11], raw["num_key_value_heads"] * raw["head_dim"])
        if rest.endswith("sinks"):
            return (raw["num_attention_heads"],)
        if rest.endswith("norm.weight"):
            return (hidden,)
        return (rows,) if rest.endswith("bias") else (rows, q if rest[10:11] == "o" else hidden)

    def _expert(self, at: str, expert: str, matrix: str, last: str) -> F32:
        experts, hidden, width = (self._raw[k] for k in ("num_local_experts", "hidden_size", "intermediate_size"))
        suffix = "_bias" if last == "bias" else ""
        fused = {"w2": ("down_proj", width, hidden)}.get(matrix, ("gate_up_proj", hidden, 2 * width))
        shape = (experts, fused[2]) if suffix else (experts, *fused[1:])
        values = self._draw(f"{at}mlp.experts.{fused[0]}{suffix}", shape)[int(expert)].T
        return {"w1": values[0::2], "w3": values[1::2]}.get(matrix, values)


@pytest.mark.parametrize("splits", [[], [5, 6, 20]], ids=["whole", "uneven"])
@pytest.mark.parametrize("case", CASES)
def test_the_reference_equals_transformers(case: str, splits: list[int], golden_logits: dict[str, np.ndarray]) -> None:
    model, state = ReferenceModel(shape_of(CASES[case]), HubWeights(CASES[case])), ReferenceState()
    logits = np.concatenate([model.logits(part, state) for part in np.split(goldens_tool.token_ids(case), splits)])
    expected = golden_logits[case]
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_published_config_is_read() -> None:
    shape = shape_of(PUBLISHED)
    rope = Rope(150000.0, 64, scaling=Yarn(32.0, 4096, truncate=False), magnitude=0.1 * np.log(32) + 1)
    full = Attention(64, 8, 64, rope, "none", bias=True, out_bias=True, sinks=True)
    sliding = Attention(64, 8, 64, rope, "none", window=128, bias=True, out_bias=True, sinks=True)
    router = Router(32, 4, "softmax", selection_bias=False, normalize=True, guard=0.0, scale=1.0, bias=True)
    ffn = Ffn(2880, router, gated=Gated(1.702, 7.0, 1.0), bias=True)
    assert shape.layers == (Layer(sliding, ffn), Layer(full, ffn)) * 12


def test_no_command_reads_it_and_no_kernel_computes_it() -> None:
    with pytest.raises(UnsupportedModelError, match="model_type 'gpt_oss' is not implemented"):
        read_shape(PUBLISHED)
    with pytest.raises(UnsupportedModelError, match="layer 0 has attention sinks, which the kernels cannot do"):
        plan_tensors(shape_of(PUBLISHED), FLOAT_SCHEMES)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": False}, "attention_bias False"),
        ({"layer_types": ["conv"] * 24}, "layer type 'conv'"),
        ({"layer_types": []}, "num_hidden_layers = 24"),
        ({"sliding_window": None}, "sliding_window is missing"),
        ({"swiglu_limit": 0}, "swiglu_limit is 0"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"num_experts_per_tok": 33}, "num_experts_per_tok 33"),
    ],
)
def test_configs_are_refused_by_name(change: dict, word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        shape_of(PUBLISHED | change)
