"""A packed model as an ONNX graph that onnxruntime runs on the CPU: `edge-lfm export --format onnx`.

Inputs and outputs carry the names that transformers.js and onnxruntime-genai expect of LFM2 (facts of LFM2, 4.2):
`past_conv.N` [B, H, L], the newest column last; `past_key_values.N.key` and `.value` [B, kv, P, hd]. All float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import MissingExtraError, UnsupportedModelError, UsageError
from edge_lfm.export.onnx_data import ExternalData
from edge_lfm.export.onnx_weights import Blocks, bits_of, interleave_rows, to_blocks
from edge_lfm.export.source import ExportSource
from edge_lfm.kernels.ref import F32, Quantized, rope_table
from edge_lfm.kernels.schemes import FLOAT32
from edge_lfm.quantize.convert import check_room
from edge_lfm.quantize.output import check_output, staged_folder, write_json

OPSET, IR_VERSION = 23, 10  # 23 has RMSNormalization
MICROSOFT = "com.microsoft"
ACTIVATIONS = {"float32": 0, "int8": 4}
"""MatMulNBits's accuracy_level: float32 is exact; int8 rounds activations, as this project's own kernels do: faster."""
MARK = "model.onnx"
_ROPE_POSITIONS = 32768
"""Positions in the graph's table of angles: 8 MB; the same as the runtime's default context."""
_FLOAT, _INT64, _INT32 = 1, 7, 6


@dataclass(frozen=True)
class OnnxReport:
    """What was written; `classes`: how each class of tensors is held."""

    file_bytes: int
    files: tuple[str, ...]
    nodes: int
    classes: dict[str, str]


def write_onnx(
    source: ExportSource,
    output: Path,
    activations: str = "int8",
    force: bool = False,
    progress: Callable[[int], Callable[[int], object]] | None = None,
) -> OnnxReport:
    """Write `model.onnx`, its data files, tokenizer files and `genai_config.json` into a folder.

    Args:
        source: a packed model.
        output: the folder; it appears only when it is whole.
        activations: a name of `ACTIVATIONS`.
        force: replace a former export.
        progress: called with the number of layers; what it returns, with 1 for each.

    Raises:
        UsageError: unknown `activations`. MissingExtraError: the package onnx is missing.
        UnsupportedModelError: the source is not packed, or has float32 experts. OutputError: it cannot be written.
    """
    if activations not in ACTIVATIONS:
        raise UsageError(f"unknown activations '{activations}'", hint=f"choose one of {', '.join(ACTIVATIONS)}")
    _onnx()
    _check(source)
    check_output(output, source.path, force, MARK)
    with staged_folder(output, force=force) as stage:
        check_room(stage.parent, _data_bytes(source))
        with ExternalData(stage) as data:
            builder = _Builder(source, data, ACTIVATIONS[activations])
            model = builder.model(progress(source.config.num_hidden_layers) if progress else lambda _layers: None)
        (stage / MARK).write_bytes(model.SerializeToString())
        _onnx().checker.check_model(str(stage / MARK))
        for name, content in source.text_files.items():
            (stage / name).write_bytes(content)
        write_json(stage / "config.json", source.raw_config)
        write_json(stage / "genai_config.json", genai_config(source))
        files = (MARK, *data.files)
        size = sum((stage / name).stat().st_size for name in files)
    return OnnxReport(size, files, len(model.graph.node), _classes(source))


def _onnx() -> ModuleType:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError(
            "ONNX models need the package onnx", hint="install it: pip install 'edge-lfm[onnx]'"
        ) from None
    return onnx


def _check(source: ExportSource) -> None:
    if not source.packed:
        raise UnsupportedModelError(
            f"{source.path} is not a packed model", hint=f"pack it first: edge-lfm quantize {source.path} -o OUT"
        )
    if any(p.kind == "experts" and p.scheme == FLOAT32.name for p in source.pieces.values()):
        raise UnsupportedModelError(
            f"{source.path} has float32 experts", hint="no operator of onnxruntime routes those; use an int8 recipe"
        )


def _data_bytes(source: ExportSource) -> int:
    total = 0
    for name, piece in source.pieces.items():
        scheme = source.scheme(name)
        shape = next(s.shape for s in piece.sources if s.name == name)
        count = int(np.prod(shape, dtype=object))
        total += 4 * count if scheme is FLOAT32 else count * bits_of(scheme) // 8 + 4 * count // scheme.block
    return total


def _classes(source: ExportSource) -> dict[str, str]:
    found = {}
    for name, piece in source.pieces.items():
        scheme = source.scheme(name)
        operator = "QMoE" if piece.kind == "experts" else "MatMulNBits"
        held = "float32" if scheme is FLOAT32 else f"{operator}, {bits_of(scheme)} bits, blocks of {scheme.block}"
        found[piece.kind] = held
    return found


class _Builder:
    """Collects nodes and initializers; methods return the name of what they compute."""

    def __init__(self, source: ExportSource, data: ExternalData, accuracy: int) -> None:
        self.source, self.config, self.data, self.accuracy = source, source.config, data, accuracy
        self.helper = _onnx().helper
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.constants: dict[str, str] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    # The graph

    def model(self, advance: Callable[[int], object]) -> Any:
        """The whole model."""
        config = self.config
        self.declare("input_ids", _INT64, ["batch_size", "sequence_length"])
        self.declare("attention_mask", _INT64, ["batch_size", "total_sequence_length"])
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
            "Sub", [self.node("Cast", [q], to=_FLOAT), self.constant(np.float32(1 << (blocks.bits - 1)))]
        )
        scale = self.node("Unsqueeze", [self.node("Gather", [f"{name}.scales", ids]), self.constant(np.array([-1]))])
        return self.reshape(self.node("Mul", [centred, scale]), [0, 0, self.config.hidden_size])

    def conv(self, n: int, x: str) -> str:
        """The gated short convolution; its state is the newest conv_L_cache columns of B * x."""
        config, at = self.config, f"model.layers.{n}.conv"
        width, hidden = config.conv_L_cache, config.hidden_size
        bcx = self.matmul(f"{at}.in_proj.weight", x, self.bias(f"{at}.in_proj.bias"))
        b, c, u = self.split(self.node("Transpose", [bcx], perm=[0, 2, 1]), 3, axis=1)
        past = self.declare(f"past_conv.{n}", _FLOAT, ["batch_size", hidden, width])
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
        self.past_length = self.node("Cast", [self.node("Sub", [summed, one])], to=_INT32)
        length = self.node("Gather", [self.node("Shape", ["attention_mask"]), self.constant(np.int64(1))])
        self.total_length = self.node("Cast", [length], to=_INT32)
        positions = np.arange(min(config.max_position_embeddings, _ROPE_POSITIONS))
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
        past = [self.declare(f"past_key_values.{n}.{what}", _FLOAT, shape) for what in ("key", "value")]
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

    # Parts

    def matmul(self, name: str, x: str, bias: str = "") -> str:
        """x times a matrix transposed."""
        if self.source.scheme(name) is FLOAT32:
            weights = self.initializer(f"{name}.transposed", self.source.values(name).T)
            out = self.node("MatMul", [x, weights])
            return self.node("Add", [out, bias]) if bias else out
        blocks = self.blocks(name)
        return self.node(
            "MatMulNBits",
            [x, f"{name}.data", f"{name}.scales", *(["", "", bias] if bias else [])],
            domain=MICROSOFT,
            K=blocks.cols,
            N=len(blocks.data),
            bits=blocks.bits,
            block_size=blocks.block,
            accuracy_level=self.accuracy,
        )

    def blocks(self, name: str) -> Blocks:
        """A matrix, whose data and scales become initializers when it is first used."""
        blocks = self.read_blocks(name)
        if f"{name}.data" not in self.constants:
            self.constants[f"{name}.data"] = name
            self.initializer(f"{name}.data", blocks.data)
            self.initializer(f"{name}.scales", blocks.scales)
        return blocks

    def read_blocks(self, name: str) -> Blocks:
        weights = self.source.weights(name)
        assert isinstance(weights, Quantized)
        return to_blocks(weights, self.source.scheme(name))

    def bias(self, name: str) -> str:
        """A bias, or "" if the model has none of that name."""
        return self.initializer(name, self.source.values(name)) if name in self.source.pieces else ""

    def norm(self, x: str, name: str) -> str:
        weight = self.initializer(name, self.source.values(name))
        return self.node("RMSNormalization", [x, weight], axis=-1, epsilon=self.config.norm_eps)

    def node(self, operator: str, inputs: Sequence[str], name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, whose name it returns."""
        output = name or f"{operator}.{len(self.nodes)}"
        node = self.helper.make_node(operator, list(inputs), [output], name=output, domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        outputs = [f"Split.{len(self.nodes)}.{n}" for n in range(parts)]
        self.nodes.append(self.helper.make_node("Split", [x], outputs, name=outputs[0], axis=axis, num_outputs=parts))
        return outputs

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", [x, self.constant(np.array(shape))])

    def initializer(self, name: str, array: NDArray[Any] | F32 | Quantized) -> str:
        assert not isinstance(array, Quantized)
        self.initializers.append(self.data.add(name, array))
        return name

    def constant(self, value: Any) -> str:
        """A small constant; equal ones are one."""
        array = np.asarray(value)
        key = f"{array.dtype}:{array.tolist()}"
        if key not in self.constants:
            self.constants[key] = self.initializer(f"constant.{len(self.constants)}", array)
        return self.constants[key]

    def declare(self, name: str, dtype: int, shape: Sequence[str | int]) -> str:
        self.inputs.append(self.helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def result(self, name: str, shape: Sequence[str | int]) -> None:
        self.outputs.append(self.helper.make_tensor_value_info(name, _FLOAT, list(shape)))


def genai_config(source: ExportSource) -> dict[str, Any]:
    """What onnxruntime-genai needs to know beside the graph."""
    config = source.config
    eos = list(config.eos_token_ids)
    return {
        "model": {
            "type": config.model_type,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": eos[0] if len(eos) == 1 else eos,
            "pad_token_id": source.raw_config.get("pad_token_id", 0),
            "vocab_size": config.vocab_size,
            "context_length": min(config.max_position_embeddings, _ROPE_POSITIONS),
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": MARK,
                "head_size": config.head_dim,
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": config.num_key_value_heads,
                "num_hidden_layers": config.num_hidden_layers,
                "layer_types": list(config.layer_types),
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                    "past_conv_names": "past_conv.%d",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                    "present_conv_names": "present_conv.%d",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": min(config.max_position_embeddings, _ROPE_POSITIONS),
            "past_present_share_buffer": False,
            "num_beams": 1,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }
