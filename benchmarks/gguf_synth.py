"""GGUF files of a published shape with random weights, for llama.cpp to be measured on.

Written in streaming with the `gguf` package; block formats as ggml defines them. Weights have the same
spread as those of `edge-lfm synth`, so that tokens choose experts as uniformly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edge_lfm.architectures import family_of, read_shape
from edge_lfm.export.gguf import add_keys
from edge_lfm.formats.gguf_names import gguf_tensors
from edge_lfm.model.plan import plan_tensors
from edge_lfm.quantize.recipe import find_recipe

Kind = gguf.GGMLQuantizationType
_SCALE_FIELDS = {  # block type -> (bytes of a block, {offset of a float16 field: factor of the spread})
    Kind.Q4_0: (18, {0: 1 / 4.61}),
    Kind.Q8_0: (34, {0: 1 / 73.9}),
    Kind.Q4_K: (144, {0: 1 / 150, 2: 1 / 150}),
    Kind.Q6_K: (210, {208: 1 / 1500}),
    Kind.MXFP4: (17, {}),
}
_MXFP4_SPREAD = 2.93
"""Of the sixteen values of four bits, before the exponent."""


def write_gguf(raw_config: dict[str, Any], path: Path, kind: Any, embedding: Any) -> None:
    """Write the model with its matrices in `kind` and its embedding in `embedding`; routers and norms in F32."""
    partial = path.with_name(path.name + ".partial")
    model, spelling = read_shape(raw_config), family_of(raw_config).gguf
    names = {model_type: name for name, model_type in spelling.model_types.items()}
    writer = gguf.GGUFWriter(partial, names[raw_config["model_type"]])
    add_keys(writer, {f"{writer.arch}.{key}": value for key, value in spelling.keys(model).items()})
    writer.add_tokenizer_model("no_vocab")
    shapes = {s.name: s.shape for tensor in plan_tensors(model, find_recipe("float32").schemes) for s in tensor.sources}
    heads = max((latent.heads for latent in model.latents.values()), default=0)
    made = gguf_tensors(spelling, shapes, len(model.layers), model.experts, heads)
    tensors = [(name, shape, _type_of(name, shape, kind, embedding)) for name, shape, _ in made]
    for name, shape, dtype in tensors:
        if dtype == Kind.F32:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
        else:
            byte_shape = (*shape[:-1], shape[-1] // gguf.GGML_QUANT_SIZES[dtype][0] * _SCALE_FIELDS[dtype][0])
            writer.add_tensor_info(name, byte_shape, np.dtype(np.uint8), int(np.prod(byte_shape)), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for n, (name, shape, dtype) in enumerate(tensors):
        factor = _factor_of(name, shape, model.tied)
        writer.write_tensor_data(_random(name, shape, dtype, factor, np.random.Generator(np.random.SFC64(n))))
    writer.close()
    partial.rename(path)


def _type_of(name: str, shape: tuple[int, ...], kind: Any, embedding: Any) -> Any:
    if len(shape) == 1 or name.endswith((".bias", "ffn_gate_inp.weight", "shortconv.conv.weight")):
        return Kind.F32
    beside = kind == Kind.MXFP4 and "_exps" not in name  # gpt-oss is published so
    return embedding if beside or name in ("token_embd.weight", "output.weight") else kind


def _factor_of(name: str, shape: tuple[int, ...], tied: bool) -> float:
    """Of a matrix's spread, beside 1 / sqrt(inputs); as in `edge_lfm/quantize/synth.py`."""
    if name == "token_embd.weight" and not tied:
        return float(shape[-1] ** 0.5)
    return {"attn_output.weight": 0.25, "ffn_gate_inp.weight": 4.0}.get(name.split(".", 2)[-1], 1.0)


def _random(name: str, shape: tuple[int, ...], dtype: Any, spread: float, rng: np.random.Generator) -> np.ndarray:
    if dtype == Kind.F32:
        if name.endswith("norm.weight"):
            return np.ones(shape, np.float32)
        if name.endswith("bias"):
            return np.zeros(shape, np.float32)
        return rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5 * spread)
    size, fields = _SCALE_FIELDS[dtype]
    blocks = int(np.prod(shape)) // gguf.GGML_QUANT_SIZES[dtype][0]
    raw = rng.bit_generator.random_raw(-(-blocks * size // 8)).view(np.uint8)[: blocks * size].reshape(blocks, size)
    for offset, factor in fields.items():
        scale = np.float16(shape[-1] ** -0.5 * spread * factor)
        raw[:, offset : offset + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    if dtype == Kind.MXFP4:
        raw[:, 0] = 127 + round(np.log2(shape[-1] ** -0.5 * spread / _MXFP4_SPREAD))
    byte_shape = (*shape[:-1], shape[-1] // gguf.GGML_QUANT_SIZES[dtype][0] * size)
    return raw.reshape(byte_shape)
