"""A model as an ONNX graph, layer by layer: the same arithmetic as `model/reference.py`, in onnxruntime's operators.

Knows nothing of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_lfm.export.onnx_nodes import FLOAT, INT32, INT64, MICROSOFT, GraphNodes
from edge_lfm.export.onnx_weights import Blocks, interleave_rows
from edge_lfm.kernels.spec.ref import Quantized
from edge_lfm.model.rotary import rope_table
from edge_lfm.shape import Attention, Rope, Router, ShortConv

OPSET, IR_VERSION = 23, 10  # 23 has RMSNormalization
ROPE_POSITIONS = 32768
"""Positions in the graph's table of angles: 8 MB; the same as the runtime's default context."""


_SCORES = {"sigmoid": "Sigmoid", "softmax": "Softmax"}
"""The operators of scores; Softmax goes over the last axis."""


class ModelGraph(GraphNodes):
    """Builds the graph of one packed model."""

    def model(self, advance: Callable[[int], object]) -> Any:
        """The whole model."""
        shape = self.shape
        self.declare("input_ids", INT64, ["batch_size", "sequence_length"])
        self.declare("attention_mask", INT64, ["batch_size", "total_sequence_length"])
        h = self.embed("input_ids")
        if shape.embed_scale != 1.0:
            h = self.node("Mul", [h, self.constant(np.float32(shape.embed_scale))])
        self.prepare_attention()
        for n, layer in enumerate(shape.layers):
            at, operator, router = f"model.layers.{n}", layer.operator, layer.ffn.router
            normed = self.norm(h, f"{at}.operator_norm.weight")
            if isinstance(operator, Attention):
                mixed = self.attention(n, operator, normed)
            else:
                assert isinstance(operator, ShortConv)
                mixed = self.conv(n, operator, normed)
            h = self.add(h, mixed, f"{at}.post_operator_norm.weight" if layer.post_norms else "")
            normed = self.norm(h, f"{at}.ffn_norm.weight")
            ffn = self.swiglu(f"{at}.feed_forward", normed) if router is None else self.experts(n, router, normed)
            if layer.ffn.shared:
                ffn = self.node("Add", [ffn, self.swiglu(f"{at}.feed_forward.shared", normed)])
            h = self.add(h, ffn, f"{at}.post_ffn_norm.weight" if layer.post_norms else "")
            advance(1)
        h = self.norm(h, "model.embedding_norm.weight")
        head = "model.embed_tokens.weight" if shape.tied else "lm_head.weight"
        self.node("Identity", [self.matmul(head, h)], name="logits")
        self.result("logits", ["batch_size", "sequence_length", shape.vocab])
        graph = self.helper.make_graph(self.nodes, "edge_lfm", self.inputs, self.outputs, self.initializers)
        opsets = [self.helper.make_opsetid("", OPSET), self.helper.make_opsetid(MICROSOFT, 1)]
        made = self.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edge-lfm")
        self.helper.set_model_props(made, {"edge_lfm": json.dumps({"accuracy_level": self.accuracy})})
        return made

    def add(self, h: str, branch: str, norm: str) -> str:
        """The residual stream plus what an operator or an FFN gives, which is normed if a norm is named."""
        return self.node("Add", [h, self.norm(branch, norm) if norm else branch])

    def embed(self, ids: str) -> str:
        """Rows of the embedding, which shares its integers with the head: Gather, then (q - zero) * scale."""
        name = "model.embed_tokens.weight"
        weights = self.source.weights(name)
        if not isinstance(weights, Quantized):
            return self.node("Gather", [self.initializer(name, weights), ids])
        blocks = self.blocks(name)
        q = self.node("Gather", [f"{name}.data", ids])  # [B, T, blocks, bytes]
        if blocks.bits == 4:
            low = self.node("BitwiseAnd", [q, self.constant(np.uint8(15))])
            high = self.node("BitShift", [q, self.constant(np.uint8(4))], direction="RIGHT")
            last = self.constant(np.array([-1]))
            pair = self.node("Concat", [self.node("Unsqueeze", [x, last]) for x in (low, high)], axis=-1)
            q = self.reshape(pair, [0, 0, 0, blocks.block])
        centred = self.node(
            "Sub", [self.node("Cast", [q], to=FLOAT), self.constant(np.float32(1 << (blocks.bits - 1)))]
        )
        scale = self.node("Unsqueeze", [self.node("Gather", [f"{name}.scales", ids]), self.constant(np.array([-1]))])
        return self.reshape(self.node("Mul", [centred, scale]), [0, 0, self.shape.hidden])

    def conv(self, n: int, conv: ShortConv, x: str) -> str:
        """The gated short convolution; its state is as many of the newest columns of B * x as it has taps."""
        at, width, hidden = f"model.layers.{n}.conv", conv.taps, self.shape.hidden
        bcx = self.matmul(f"{at}.in_proj.weight", x, self.bias(f"{at}.in_proj.bias"))
        b, c, u = self.split(self.node("Transpose", [bcx], perm=[0, 2, 1]), 3, axis=1)
        past = self.declare(f"past_conv.{n}", FLOAT, ["batch_size", hidden, width])
        joined = self.node("Concat", [past, self.node("Mul", [b, u])], axis=2)
        ends = [self.constant(np.array([v])) for v in (-width, np.iinfo(np.int64).max, 2, 1)]
        self.node("Slice", [joined, *ends[:2], ends[2]], name=f"present_conv.{n}")
        self.result(f"present_conv.{n}", ["batch_size", hidden, width])
        # Of the state, the convolution needs one column less than is kept.
        seen = self.node("Slice", [joined, ends[3], ends[1], ends[2]])
        taps = self.initializer(f"{at}.conv.weight", self.source.values(f"{at}.conv.weight"))
        bias = self.bias(f"{at}.conv.bias")
        mixed = self.node("Conv", [seen, taps, *([bias] if bias else [])], group=hidden)
        y = self.node("Transpose", [self.node("Mul", [c, mixed])], perm=[0, 2, 1])
        return self.matmul(f"{at}.out_proj.weight", y, self.bias(f"{at}.out_proj.bias"))

    def prepare_attention(self) -> None:
        """What attention layers share: lengths from the mask, and tables of angles."""
        shape = self.shape
        if not shape.attentions:
            return
        one = self.constant(np.array([1]))
        summed = self.node("ReduceSum", ["attention_mask", one], keepdims=0)
        self.past_length = self.node("Cast", [self.node("Sub", [summed, one])], to=INT32)
        length = self.node("Gather", [self.node("Shape", ["attention_mask"]), self.constant(np.int64(1))])
        self.total_length = self.node("Cast", [length], to=INT32)
        positions = np.arange(min(shape.context, ROPE_POSITIONS))
        self.angles: dict[Rope, list[str]] = {}
        for rope in dict.fromkeys(a.rope for a in shape.attentions.values() if a.rope is not None):
            at = f"rope.{len(self.angles)}" if self.angles else "rope"
            cos, sin = np.split(rope_table(rope, positions), 2, axis=1)
            self.angles[rope] = [self.initializer(f"{at}.cos", cos), self.initializer(f"{at}.sin", sin)]

    def attention(self, n: int, attention: Attention, x: str) -> str:
        """Grouped-query attention, with the norm of queries and keys, RoPE, and gates."""
        at, kv, width = f"model.layers.{n}.self_attn", attention.kv_heads, attention.width
        q, k, v = (self.matmul(f"{at}.{p}_proj.weight", x, self.bias(f"{at}.{p}_proj.bias")) for p in "qkv")
        q = self.head_norm(q, f"{at}.q_layernorm.weight", attention, attention.heads)
        k = self.head_norm(k, f"{at}.k_layernorm.weight", attention, kv)
        shape: list[str | int] = ["batch_size", kv, "past_sequence_length", width]
        past = [self.declare(f"past_key_values.{n}.{what}", FLOAT, shape) for what in ("key", "value")]
        present = [f"present.{n}.{what}" for what in ("key", "value")]
        mixed = f"{at}.mixed"
        angles = self.angles[attention.rope] if attention.rope is not None else []
        self.nodes.append(
            self.helper.make_node(
                "GroupQueryAttention",
                [q, k, v, *past, self.past_length, self.total_length, *angles],
                [mixed, *present],
                name=f"{at}.GroupQueryAttention",
                domain=MICROSOFT,
                num_heads=attention.heads,
                kv_num_heads=kv,
                do_rotary=int(attention.rope is not None),
                local_window_size=-1 if attention.window is None else attention.window,
                scale=width**-0.5,
            )
        )
        for name in present:
            self.result(name, ["batch_size", kv, "total_sequence_length", width])
        return self.matmul(f"{at}.out_proj.weight", self.gated(at, attention, x, mixed))

    def gated(self, at: str, attention: Attention, x: str, mixed: str) -> str:
        """What attention gives, times the sigmoids of a projection of its input."""
        if attention.gate == "none":
            return mixed
        gates = self.node("Sigmoid", [self.matmul(f"{at}.gate_proj.weight", x)])
        if attention.gate == "value":
            return self.node("Mul", [mixed, gates])
        each = self.node("Unsqueeze", [gates, self.constant(np.array([-1]))])
        heads = self.reshape(mixed, [0, 0, attention.heads, attention.width])
        return self.reshape(self.node("Mul", [heads, each]), [0, 0, attention.heads * attention.width])

    def head_norm(self, x: str, name: str, attention: Attention, heads: int) -> str:
        """RMSNorm of each head, or of all as one row, or none."""
        if attention.qk_norm == "none":
            return x
        if attention.qk_norm == "all":
            return self.norm(x, name)
        split = self.reshape(x, [0, 0, heads, attention.width])
        return self.reshape(self.norm(split, name), [0, 0, heads * attention.width])

    def swiglu(self, at: str, x: str) -> str:
        gate, up = (self.matmul(f"{at}.{w}.weight", x) for w in ("w1", "w3"))
        silu = self.node("Mul", [gate, self.node("Sigmoid", [gate])])
        return self.matmul(f"{at}.w2.weight", self.node("Mul", [silu, up]))

    def experts(self, n: int, router: Router, x: str) -> str:
        """Router and experts: selected by score plus bias, weighed by score alone (`kernels/spec/routing.py`)."""
        at = f"model.layers.{n}.feed_forward"
        weights = self.initializer(f"{at}.gate.weight", self.source.values(f"{at}.gate.weight").T)
        flat = self.reshape(x, [-1, self.shape.hidden])
        scores = self.node(_SCORES[router.score], [self.node("MatMul", [flat, weights])])
        selection = scores
        if router.selection_bias:
            bias = self.initializer(f"{at}.expert_bias", self.source.values(f"{at}.expert_bias"))
            selection = self.node("Add", [scores, bias])
        up, down = self.fuse_experts(at, router.experts)
        extra: dict[str, Any] = {"accuracy_level": self.accuracy} if self.accuracy else {}  # onnxruntime 1.30: unknown
        out = self.node(
            "QMoE",
            [flat, selection, *up, "", *down, *[""] * 7, scores],
            domain=MICROSOFT,
            k=router.top_k,
            expert_weight_bits=self.source.scheme(f"{at}.experts.0.w1.weight").integer_bits,
            block_size=self.source.scheme(f"{at}.experts.0.w1.weight").block,
            activation_type="swiglu",
            swiglu_fusion=1,
            activation_alpha=1.0,
            activation_beta=0.0,
            normalize_routing_weights=int(router.normalize),
            **extra,
        )
        if router.scale != 1.0:
            out = self.node("Mul", [out, self.constant(np.float32(router.scale))])
        shape = self.node("Shape", [x])
        return self.node("Reshape", [out, shape])

    def fuse_experts(self, at: str, experts: int) -> tuple[list[str], list[str]]:
        """The stacked matrices of all experts of a layer, each as data and scales."""
        up: list[Blocks] = []
        down: list[Blocks] = []
        for e in range(experts):
            w1, w3, w2 = (self.read_blocks(f"{at}.experts.{e}.{w}.weight") for w in ("w1", "w3", "w2"))
            up.append(interleave_rows(w1, w3))
            down.append(w2)
        return self.stack(f"{at}.experts.gate_up_proj", up), self.stack(f"{at}.experts.down_proj", down)

    def stack(self, name: str, blocks: Sequence[Blocks]) -> list[str]:
        data = np.stack([b.data.reshape(len(b.data), -1) for b in blocks])
        return [
            self.initializer(f"{name}.data", data),
            self.initializer(f"{name}.scales", np.stack([b.scales for b in blocks])),
        ]
