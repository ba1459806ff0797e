"""`edge-lfm inspect`: what a packed model, a checkpoint or a GGUF file is."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import print_json
from edge_lfm.cli.quantize import describe_sizes
from edge_lfm.demo import packed_demo
from edge_lfm.formats.gguf import is_gguf
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel, is_packed
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.quantize.recipe import find_recipe, recipe_like
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.shape import Shape


def run(args: argparse.Namespace) -> None:
    path = args.model or packed_demo()
    if is_gguf(path) or (path.is_dir() and not is_packed(path)):
        _inspect_checkpoint(path, args.json)
    else:
        _inspect_packed(path, args.json)


def _inspect_packed(path: Path, as_json: bool) -> None:
    with PackedModel(path) as model:
        sizes = measure_sizes(model.shape, list(model.tensors.values()))
        if as_json:
            report = {"config": model.raw_config, "shape": asdict(model.shape), "schemes": model.schemes.to_json()}
            print_json(report | {"provenance": model.provenance, "size": asdict(sizes)})
            return
        print(f"{model.folder}: {model.raw_config['model_type']}, packed as {model.schemes.recipe}")
        for line in _describe(model.shape):
            print(f"  {line}")
        print(f"  {describe_sizes(sizes)}")
        for name, value in model.provenance.items():
            print(f"  {name.replace('_', ' ')}: {value}")


def _inspect_checkpoint(path: Path, as_json: bool) -> None:
    """How each class of tensors is stored, and what would be made of it."""
    with open_checkpoint(path) as checkpoint:
        shape = checkpoint.describe()
        tensors = plan_tensors(shape, find_recipe(DEFAULT_RECIPE).schemes)
        weights = CheckpointWeights(checkpoint, shape, tensors)
        recipe = recipe_like(weights, tensors)
        stored: dict[str, Counter[str]] = {}
        for tensor in tensors:
            kinds = stored.setdefault(tensor.kind, Counter())
            kinds.update(weights.kind(source.name) for source in tensor.sources)
        if as_json:
            described = {"config": checkpoint.raw_config, "shape": asdict(shape)}
            print_json(described | {"stored": stored, "recipe": recipe.to_json()})
            return
        print(f"{path}: {checkpoint.raw_config['model_type']}")
        if checkpoint.left_out:
            print(f"  {checkpoint.left_out}")
        for line in _describe(shape):
            print(f"  {line}")
        for kind, kinds in stored.items():
            print(f"  {kind:10} " + ", ".join(f"{count} x {name}" for name, count in kinds.most_common()))
        text = ", ".join(checkpoint.text_files) or "none"
        print(f"  tokenizer files: {text}\n  recipe without --recipe: {recipe.name}")


def _describe(shape: Shape) -> Iterator[str]:
    heads = sorted({(attention.heads, attention.kv_heads) for attention in shape.keeping.values()})
    yield (
        f"{len(shape.layers)} layers ({len(shape.convs)} short conv, {len(shape.keeping)} attention), "
        f"hidden {shape.hidden}, {' or '.join(f'{q} heads on {kv}' for q, kv in heads)}, vocabulary {shape.vocab}"
    )
    for latent in set(shape.latents.values()):
        yield f"attention keeps a latent of {latent.rank} values and a key of {latent.key_width} of every position"
    windows = Counter(attention.window for attention in shape.attentions.values() if attention.window is not None)
    for window, count in sorted(windows.items()):
        yield f"{count} of the attention layers see the newest {window} positions"
    if shape.routers:
        widths = sorted({layer.ffn.width for layer in shape.layers if layer.ffn.router is not None})
        yield (
            f"{shape.experts} experts of width {' or '.join(map(str, widths))}, {shape.top_k} per token; "
            f"{len(shape.layers) - len(shape.routers)} dense layers"
        )
