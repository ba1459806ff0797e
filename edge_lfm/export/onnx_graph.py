"""LFM2 as an ONNX graph, layer by layer: the same arithmetic as `model/reference.py`, in onnxruntime's operators.

Knows nothing of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_lfm.export.onnx_nodes import FLOAT, INT32, INT64, MICROSOFT, GraphNodes
from edge_lfm.export.onnx_weights import Blocks, bits_of, interleave_rows
from edge_lfm.kernels.spec.ref import Quantized, rope_table

OPSET, IR_VERSION = 23, 10  # 23 has RMSNormalization
ROPE_POSITIONS = 32768
"""Positions in the graph's table of angles: 8 MB; the same as the runtime's default context."""


class Lfm2Graph(GraphNodes):
    """Builds the graph of one packed model."""

    def model(self, advance: Callable[[int], object]) -> Any:
        """The whole model."""
        config = self.config
        self.declare("input_ids", INT64, ["batch_size", "sequence_length"])
        self.declare("attention_mask", INT64, ["batch_size", "total_sequence_length"])
        h = self.embed("input_ids")
        self.prepare_attention()
        for n in range(config.num_hidden_layers):
            at = f"model.layers.{n}"
            operator = self.attention if config.is_attention(n) else self.conv
            h = self.node("Add", [h, operator(n, self.norm(h, f"{at}.operator_norm.weight"))])
            normed = self.norm(h, f"{at}.ffn_norm.weight")
            ffn = self.experts(n, normed) if config.is_moe(n) else self.swiglu(f"{at}.feed_forward", normed)
            h = self.node("Add", [h, ffn])
            advance(1)
        h = self.norm(h, "model.embedding_norm.weight")
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        self.node("Identity", [self.matmul(head, h)], name="logits")
        self.result("logits", ["batch_size", "sequence_length", config.vocab_size])
        graph = self.helper.make_graph(self.nodes, "lfm2", self.inputs, self.outputs, self.initializers)
        opsets = [self.helper.make_opsetid("", OPSET), self.helper.make_opsetid(MICROSOFT, 1)]
        made = self.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edge-lfm")
        self.helper.set_model_props(made, {"edge_lfm": json.dumps({"accuracy_level": self.accuracy})})
        return made

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
        return self.reshape(self.node("Mul", [centred, scale]), [0, 0, self.config.hidden_size])

    def conv(self, n: int, x: str) -> str:
        """The gated short convolution; its state is the newest conv_L_cache columns of B * x."""
        config, at = self.config, f"model.layers.{n}.conv"
        width, hidden = config.conv_L_cache, config.hidden_size
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
        """What all attention layers share: lengths from the mask, and the table of angles."""
        config = self.config
        if not any(config.is_attention(n) for n in range(config.num_hidden_layers)):
            return
        one = self.constant(np.array([1]))
        summed = self.node("ReduceSum", ["attention_mask", one], keepdims=0)
        self.past_length = self.node("Cast", [self.node("Sub", [summed, one])], to=INT32)
        length = self.node("Gather", [self.node("Shape", ["attention_mask"]), self.constant(np.int64(1))])
        self.total_length = self.node("Cast", [length], to=INT32)
        positions = np.arange(min(config.max_position_embeddings, ROPE_POSITIONS))
        table = rope_table(positions, config.head_dim, config.rope_theta)
        cos, sin = np.split(table, 2, axis=1)
        self.cos, self.sin = self.initializer("rope.cos", cos), self.initializer("rope.sin", sin)

    def attention(self, n: int, x: str) -> str:
        config, at = self.config, f"model.layers.{n}.self_attn"
        heads, kv, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        q = self.head_norm(self.matmul(f"{at}.q_proj.weight", x), f"{at}.q_layernorm.weight", heads)
        k = self.head_norm(self.matmul(f"{at}.k_proj.weight", x), f"{at}.k_layernorm.weight", kv)
        v = self.matmul(f"{at}.v_proj.weight", x)
        shape: list[str | int] = ["batch_size", kv, "past_sequence_length", width]
        past = [self.declare(f"past_key_values.{n}.{what}", FLOAT, shape) for what in ("key", "value")]
        present = [f"present.{n}.{what}" for what in ("key", "value")]
        mixed = f"{at}.mixed"
        self.nodes.append(
            self.helper.make_node(
                "GroupQueryAttention",
                [q, k, v, *past, self.past_length, self.total_length, self.cos, self.sin],
                [mixed, *present],
                name=f"{at}.GroupQueryAttention",
                domain=MICROSOFT,
                num_heads=heads,
                kv_num_heads=kv,
                do_rotary=1,
                scale=width**-0.5,
            )
        )
        for name in present:
            self.result(name, ["batch_size", kv, "total_sequence_length", width])
        return self.matmul(f"{at}.out_proj.weight", mixed)

    def head_norm(self, x: str, name: str, heads: int) -> str:
        """RMSNorm of each head."""
        split = self.reshape(x, [0, 0, heads, self.config.head_dim])
        return self.reshape(self.norm(split, name), [0, 0, heads * self.config.head_dim])

    def swiglu(self, at: str, x: str) -> str:
        gate, up = (self.matmul(f"{at}.{w}.weight", x) for w in ("w1", "w3"))
        silu = self.node("Mul", [gate, self.node("Sigmoid", [gate])])
        return self.matmul(f"{at}.w2.weight", self.node("Mul", [silu, up]))

    def experts(self, n: int, x: str) -> str:
        """Router and experts: selected by score plus bias, weighed by score alone."""
        config, at = self.config, f"model.layers.{n}.feed_forward"
        router = self.initializer(f"{at}.gate.weight", self.source.values(f"{at}.gate.weight").T)
        flat = self.reshape(x, [-1, config.hidden_size])
        scores = self.node("Sigmoid", [self.node("MatMul", [flat, router])])
        selection = scores
        if config.use_expert_bias:
            bias = self.initializer(f"{at}.expert_bias", self.source.values(f"{at}.expert_bias"))
            selection = self.node("Add", [scores, bias])
        up, down = self.fuse_experts(at)
        extra: dict[str, Any] = {"accuracy_level": self.accuracy} if self.accuracy else {}  # onnxruntime 1.30: unknown
        out = self.node(
            "QMoE",
            [flat, selection, *up, "", *down, *[""] * 7, scores],
            domain=MICROSOFT,
            k=config.num_experts_per_tok,
            expert_weight_bits=bits_of(self.source.scheme(f"{at}.experts.0.w1.weight")),
            block_size=self.source.scheme(f"{at}.experts.0.w1.weight").block,
            activation_type="swiglu",
            swiglu_fusion=1,
            activation_alpha=1.0,
            activation_beta=0.0,
            normalize_routing_weights=int(config.norm_topk_prob),
            **extra,
        )
        if config.routed_scaling_factor != 1.0:
            out = self.node("Mul", [out, self.constant(np.float32(config.routed_scaling_factor))])
        shape = self.node("Shape", [x])
        return self.node("Reshape", [out, shape])

    def fuse_experts(self, at: str) -> tuple[list[str], list[str]]:
        """The stacked matrices of all experts of a layer, each as data and scales."""
        up: list[Blocks] = []
        down: list[Blocks] = []
        for e in range(self.config.num_experts):
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
