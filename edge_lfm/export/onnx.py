"""A packed model as an ONNX graph that onnxruntime runs on the CPU: `edge-lfm export --format onnx`.

Inputs and outputs carry the names that transformers.js and onnxruntime-genai expect of models with short convolutions:
`past_conv.N` [B, H, L], the newest column last; `past_key_values.N.key` and `.value` [B, kv, P, hd]. All float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_lfm.errors import UnsupportedModelError, UsageError
from edge_lfm.export.onnx_data import ExternalData
from edge_lfm.export.onnx_graph import ROPE_POSITIONS, ModelGraph
from edge_lfm.export.onnx_nodes import onnx_package
from edge_lfm.export.source import ExportSource
from edge_lfm.export.types import ACTIVATIONS
from edge_lfm.model.onnx_model import GRAPH
from edge_lfm.model.plan import EXPERT_CLASS
from edge_lfm.quantize.convert import check_room
from edge_lfm.quantize.output import check_output, staged_folder, write_json
from edge_lfm.shape import Attention, Gated, LatentAttention, Layer, Shape

_PAST_NAMES = {"key": "past_key_values.%d.key", "value": "past_key_values.%d.value", "conv": "past_conv.%d"}
_PRESENT_NAMES = {"key": "present.%d.key", "value": "present.%d.value", "conv": "present_conv.%d"}


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
    onnx_package()
    _check(source)
    check_output(output, source.path, force, GRAPH)
    with staged_folder(output, force=force, mark=GRAPH) as stage:
        check_room(stage.parent, _data_bytes(source))
        with ExternalData(stage) as data:
            builder = ModelGraph(source, data, ACTIVATIONS[activations])
            model = builder.model(progress(len(source.shape.layers)) if progress else lambda _layers: None)
        (stage / GRAPH).write_bytes(model.SerializeToString())
        onnx_package().checker.check_model(str(stage / GRAPH))
        for name, content in source.text_files.items():
            (stage / name).write_bytes(content)
        write_json(stage / "config.json", source.raw_config)
        write_json(stage / "genai_config.json", genai_config(source))
        files = (GRAPH, *data.files)
        size = sum((stage / name).stat().st_size for name in files)
    return OnnxReport(size, files, len(model.graph.node), _classes(source))


def _check(source: ExportSource) -> None:
    if not source.packed:
        raise UnsupportedModelError(
            f"{source.path} is not a packed model", hint=f"pack it first: edge-lfm quantize {source.path} -o OUT"
        )
    for n, layer in enumerate(source.shape.layers):
        for what in _beyond(layer):
            raise UnsupportedModelError(f"{source.path}: layer {n} has {what}", hint="the graph has no nodes for that")
    schemes = {source.scheme(name) for name, tensor in source.tensors.items() if tensor.kind == EXPERT_CLASS}
    if any(not scheme.quantized for scheme in schemes):
        raise UnsupportedModelError(
            f"{source.path} has float32 experts", hint="no operator of onnxruntime routes those; use an int8 recipe"
        )
    if len({(scheme.integer_bits, scheme.block) for scheme in schemes}) > 1:
        names = " and ".join(sorted(scheme.name for scheme in schemes))
        raise UnsupportedModelError(
            f"{source.path} has experts in {names}", hint="onnxruntime's QMoE knows one width and block for all of them"
        )


def _beyond(layer: Layer) -> Iterator[str]:
    """What a layer has that the graph has no nodes for."""
    if isinstance(layer.operator, Attention):
        yield from ["attention sinks"] if layer.operator.sinks else []
        yield from ["queries and keys normed after they are turned"] if layer.operator.norm_after_rope else []
        yield from ["a bias behind attention"] if layer.operator.out_bias else []
    yield from ["latent attention"] if isinstance(layer.operator, LatentAttention) else []
    yield from ["groups of experts"] if layer.ffn.router is not None and layer.ffn.router.groups > 1 else []
    yield from ["biases of its FFN"] if layer.ffn.bias else []
    yield from ["another gate than silu"] if layer.ffn.gated != Gated() else []
    yield from ["biases of its router's logits"] if layer.ffn.router is not None and layer.ffn.router.bias else []


def _data_bytes(source: ExportSource) -> int:
    total = 0
    for name, tensor in source.tensors.items():
        scheme = source.scheme(name)
        shape = next(s.shape for s in tensor.sources if s.name == name)
        count = int(np.prod(shape, dtype=object))
        total += count * scheme.integer_bits // 8 + 4 * count // scheme.block if scheme.quantized else 4 * count
    return total


def _classes(source: ExportSource) -> dict[str, str]:
    classes = {}
    for name, tensor in source.tensors.items():
        scheme = source.scheme(name)
        operator = "QMoE" if tensor.kind == "experts" else "MatMulNBits"
        held = f"{operator}, {scheme.integer_bits} bits, blocks of {scheme.block}" if scheme.quantized else "float32"
        classes[tensor.kind] = held
    return classes


def genai_config(source: ExportSource) -> dict[str, Any]:
    """What onnxruntime-genai needs to know beside the graph."""
    shape, eos = source.shape, list(source.shape.eos)
    kinds = {"key": shape.attentions, "value": shape.attentions, "conv": shape.convs}
    states = [kind for kind, layers in kinds.items() if layers]
    attention = next(iter(shape.attentions.values()), None)
    return {
        "model": {
            "type": source.raw_config["model_type"],
            "bos_token_id": shape.bos,
            "eos_token_id": eos[0] if len(eos) == 1 else eos,
            "pad_token_id": source.raw_config.get("pad_token_id", 0),
            "vocab_size": shape.vocab,
            "context_length": min(shape.context, ROPE_POSITIONS),
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": GRAPH,
                "head_size": attention.width if attention else 0,
                "hidden_size": shape.hidden,
                "num_attention_heads": attention.heads if attention else 0,
                "num_key_value_heads": attention.kv_heads if attention else 0,
                "num_hidden_layers": len(shape.layers),
                "layer_types": _layer_types(shape),
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    **{f"past_{kind}_names": _PAST_NAMES[kind] for kind in states},
                },
                "outputs": {
                    "logits": "logits",
                    **{f"present_{kind}_names": _PRESENT_NAMES[kind] for kind in states},
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": min(shape.context, ROPE_POSITIONS),
            "past_present_share_buffer": False,
            "num_beams": 1,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }


def _layer_types(shape: Shape) -> list[str]:
    """As onnxruntime-genai names them."""
    return ["full_attention" if n in shape.attentions else "conv" for n in range(len(shape.layers))]
