"""`edge-lfm inspect`: what a packed model is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import print_json
from edge_lfm.cli.quantize import describe_sizes
from edge_lfm.demo import packed_demo
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes

HELP = "show a packed model's architecture and sizes"
EXAMPLE = "edge-lfm inspect lfm2-24b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, help="folder of a packed model (default: the demo model)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    with PackedModel(args.model or packed_demo()) as model:
        config, sizes = model.config, measure_sizes(model.config, list(model.pieces.values()))
        if args.json:
            print_json(
                {
                    "config": asdict(config),
                    "schemes": model.schemes.to_json(),
                    "provenance": model.provenance,
                    "size": asdict(sizes),
                }
            )
            return
        attention = sum(config.is_attention(n) for n in range(config.num_hidden_layers))
        print(f"{model.folder}: {config.model_type}, packed as {model.schemes.recipe}")
        print(
            f"  {config.num_hidden_layers} layers ({config.num_hidden_layers - attention} short conv, {attention} "
            f"attention), hidden {config.hidden_size}, {config.num_attention_heads} heads on "
            f"{config.num_key_value_heads}, vocabulary {config.vocab_size}"
        )
        if config.num_experts:
            print(
                f"  {config.num_experts} experts of width {config.moe_intermediate_size}, "
                f"{config.num_experts_per_tok} per token; {config.num_dense_layers} dense layers"
            )
        print(f"  {describe_sizes(sizes)}")
        for name, value in model.provenance.items():
            print(f"  {name.replace('_', ' ')}: {value}")
