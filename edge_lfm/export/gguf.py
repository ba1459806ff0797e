"""A model as a GGUF file that llama.cpp loads: `edge-lfm export --format gguf`.

Integers in groups of 32 with float16 scales are ggml's Q4_0 and Q8_0 and are carried over as they are; codebook weights
are rounded once more. Written in streaming, one tensor at a time, by the package gguf.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.architectures import GgufSpelling, family_of
from edge_lfm.errors import OutputError, UnsupportedModelError, UsageError
from edge_lfm.export.source import ExportSource
from edge_lfm.export.types import TYPES
from edge_lfm.formats.gguf import MAGIC, gguf_package
from edge_lfm.formats.gguf_names import gguf_tensors
from edge_lfm.formats.gguf_tokenizer import gguf_metadata
from edge_lfm.formats.packed import sync_folder
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.tiles import definition
from edge_lfm.model.latent_weights import turns_of
from edge_lfm.model.plan import TENSOR_CLASSES
from edge_lfm.quantize.convert import check_room
from edge_lfm.quantize.output import working_folder
from edge_lfm.quantize.pack import ErrorSum
from edge_lfm.shape import Shape

_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32, "mxfp4": 38}
_QUANTIZATION_VERSION = 2


@dataclass
class GgufReport:
    """What was written; `types`: by class of tensors, with the relative error that rounding added."""

    file_bytes: int = 0
    types: dict[str, str] = field(default_factory=dict)
    relative_rmse: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Target:
    """One tensor of the file, and what it is made of."""

    name: str
    shape: tuple[int, ...]
    sources: list[str]
    kind: str  # its class in the plan
    type: str

    def nbytes(self, gguf: ModuleType) -> int:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.type.upper()]]
        return int(np.prod(self.shape)) // int(block) * int(size)


def write_gguf(
    source: ExportSource,
    output: Path,
    type_name: str | None = None,
    force: bool = False,
    progress: Callable[[int], Callable[[int], object]] | None = None,
) -> GgufReport:
    """Write a GGUF file.

    Args:
        source: what to write.
        output: the file; it appears only when it is whole.
        type_name: one of `TYPES` for all matrices (a 4-bit file keeps its embedding in 8 bits); default: the types
            that lose least: those of the packed model, Q8_0 for codebooks, F16 for a checkpoint.
        force: replace an existing file.
        progress: called with the number of bytes; what it returns, with the bytes of each tensor.

    Raises:
        UsageError: unknown type. MissingExtraError: the package gguf is missing. OutputError: it cannot be written.
        UnsupportedModelError: the model asks for something that llama.cpp's code of the family does not do.
    """
    if type_name is not None and type_name not in TYPES:
        raise UsageError(f"unknown type '{type_name}'", hint=f"choose one of {', '.join(TYPES)}")
    spelling = _spelling_of(source)
    gguf = gguf_package()
    _check_free(output, force)
    shapes = {s.name: s.shape for tensor in source.tensors.values() for s in tensor.sources}
    targets = [
        _Target(name, shape, names, source.tensors[names[0]].kind, _type_of(source, shape, names[0], type_name))
        for name, shape, names in _tensors_of(source, spelling, shapes)
    ]
    sizes = [target.nbytes(gguf) for target in targets]
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be made: {error.strerror}", hint="choose another place with -o") from None
    beside = 2 * sum(len(content) for content in source.text_files.values())  # vocabulary and template, with lengths
    check_room(output.absolute().parent, sum(sizes) + beside + (1 << 20))
    advance = progress(sum(sizes)) if progress else lambda _bytes: None
    errors: dict[str, ErrorSum] = {}
    with _staged_file(output, force) as partial:
        model_type = source.raw_config["model_type"]
        architecture = next(name for name, known in spelling.model_types.items() if known == model_type)
        writer = gguf.GGUFWriter(partial, architecture)
        try:
            last_matrix = next(target for target in reversed(targets) if target.name.endswith(".weight"))
            _add_metadata(writer, source, spelling, type_name or last_matrix.type)
            _write_head(writer, gguf, targets, spelling.computed(source.shape))
            in_turn = turns_of(source.shape)
            for target, size in zip(targets, sizes, strict=True):
                parts = [_encode(source, gguf, target, name, errors) for name in target.sources]
                if target.sources[0] in in_turn:  # llama.cpp turns pairs (2i, 2i + 1) of latent attention
                    parts = [in_turn[target.sources[0]](parts[0].reshape(target.shape[0], -1))]
                writer.write_tensor_data(parts[0] if len(parts) == 1 else np.stack(parts))
                advance(size)
        finally:
            writer.close()
    types = {t.kind: ", ".join(sorted({o.type.upper() for o in targets if o.kind == t.kind})) for t in targets}
    return GgufReport(output.stat().st_size, types, {kind: e.relative_rmse for kind, e in errors.items() if e.signal})


def _tensors_of(
    source: ExportSource, spelling: GgufSpelling, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    heads = max((latent.heads for latent in source.shape.latents.values()), default=0)
    return gguf_tensors(spelling, shapes, len(source.shape.layers), source.shape.experts, heads)


def problems_of(spelling: GgufSpelling, shape: Shape) -> list[str]:
    """What of a model llama.cpp's code of the family cannot do, or its files cannot say."""
    scaled = any(a.rope is not None and a.rope.scaling is not None for a in shape.attentions.values())
    return [*(["rope_type is yarn"] if scaled and not spelling.scales_positions else []), *spelling.refusals(shape)]


def _spelling_of(source: ExportSource) -> GgufSpelling:
    """How the model's family spells GGUF; refuses what llama.cpp's code of it cannot do."""
    spelling = family_of(source.raw_config, str(source.path)).gguf
    for problem in problems_of(spelling, source.shape):
        raise UnsupportedModelError(f"{source.path}: {problem}", hint="docs/models.md has what GGUF files can say")
    return spelling


def _type_of(source: ExportSource, shape: tuple[int, ...], name: str, asked: str | None) -> str:
    """The type of a tensor: what is no quantized class stays float32, as llama.cpp wants it."""
    tensor = source.tensors[name]
    is_bias = name in (bias.name for bias in tensor.biases)
    if tensor.floats is not None or tensor.kind not in TENSOR_CLASSES or is_bias:
        return "f32"
    if asked is None:
        return source.scheme(name).gguf_type.lower()
    if asked == "q4_0" and tensor.kind == "embedding":
        return "q8_0"
    return asked


def _write_head(writer: Any, gguf: ModuleType, targets: list[_Target], computed: Mapping[str, F32]) -> None:
    """Everything before the weights: metadata, the list of tensors, and those that are computed."""
    for name, values in computed.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for target in targets:
        _announce(writer, gguf, target, target.nbytes(gguf))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in computed.values():
        writer.write_tensor_data(values)


def _announce(writer: Any, gguf: ModuleType, target: _Target, nbytes: int) -> None:
    if target.type in ("f32", "f16"):
        dtype = np.dtype(np.float32 if target.type == "f32" else np.float16)
        writer.add_tensor_info(target.name, target.shape, dtype, nbytes)
        return
    row = nbytes // int(np.prod(target.shape[:-1]))
    kind = gguf.GGMLQuantizationType[target.type.upper()]
    writer.add_tensor_info(target.name, (*target.shape[:-1], row), np.dtype(np.uint8), nbytes, raw_dtype=kind)


def _encode(
    source: ExportSource, gguf: ModuleType, target: _Target, name: str, errors: dict[str, ErrorSum]
) -> NDArray[Any]:
    """One source's bytes in the target's type; adds what rounding lost to `errors`."""
    stored = source.weights(name)
    scheme, kind = source.scheme(name), target.type.upper()
    if isinstance(stored, Quantized) and kind in scheme.ggml:
        errors.setdefault(target.kind, ErrorSum()).add(0.0, float(np.vdot(stored.scale, stored.scale)))
        blocks: NDArray[np.uint8] = definition(scheme).to_ggml(stored, kind)
        return blocks
    values = stored.values() if isinstance(stored, Quantized) else stored
    if target.name.endswith(".weight"):
        values = values.reshape(*(target.shape[-2:-1] if len(target.sources) > 1 else target.shape[:-1]), -1)
    if target.type == "f32":
        return values
    if target.type == "f16":
        return _halves(values, name)
    number = gguf.GGMLQuantizationType[kind]
    data: NDArray[Any] = gguf.quants.quantize(values, number)
    lost = values - gguf.quants.dequantize(data, number)
    errors.setdefault(target.kind, ErrorSum()).add(float(np.vdot(lost, lost)), float(np.vdot(values, values)))
    return data


def _halves(values: F32, name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UnsupportedModelError(f"tensor {name} has values beyond float16", hint="use --type bf16 or f32")
    return halves


def add_keys(writer: Any, keys: dict[str, Any]) -> None:
    """Keys and values for a GGUFWriter, each in the type of its Python value."""
    for key, value in keys.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)


def _add_metadata(writer: Any, source: ExportSource, spelling: GgufSpelling, type_name: str) -> None:
    writer.add_name(source.path.resolve().name)
    writer.add_file_type(_FILE_TYPES[type_name])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    add_keys(writer, {f"{writer.arch}.{key}": value for key, value in spelling.keys(source.shape).items()})
    shape = source.shape
    add_keys(writer, gguf_metadata(source.text_files, shape.vocab, spelling, str(source.path), shape.eos))


@contextmanager
def _staged_file(output: Path, force: bool) -> Iterator[Path]:
    """A file in a working folder beside the output, renamed to it when all went well, removed otherwise."""
    with working_folder(output, force=force) as stage:
        partial = stage / "model.gguf"
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            _check_free(output, force)  # again: it took a while
            os.replace(partial, output)
            sync_folder(output.absolute().parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OutputError(f"{output}: no room left", hint="free some disk space") from None
            raise OutputError(f"{output} cannot be written: {error.strerror}", hint="check the folder") from None
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _check_free(output: Path, force: bool) -> None:
    """`--force` replaces GGUF files and empty ones, and nothing else."""
    try:
        if output.is_dir() or (output.exists() and not force):
            raise OutputError(f"{output} exists", hint="choose another file, or add --force to replace it")
        if output.exists() and output.stat().st_size:
            with output.open("rb") as file:
                is_gguf = file.read(len(MAGIC)) == MAGIC
            if not is_gguf:
                raise OutputError(f"{output} is not a GGUF file", hint="--force replaces only what this command makes")
    except OSError as error:
        raise OutputError(f"{output} cannot be looked at: {error.strerror}", hint="check its permissions") from None
