"""A training run as a checkpoint folder in the hub's layout.

PYTHONPATH=tools python -m demo.export RUN --tokenizer FOLDER -o OUT
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from demo.network import CONFIG, Network

GENERATION = {"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0, "do_sample": False}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def network_of(run: Path) -> Network:
    """The network with the master weights of a run's last checkpoint."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    network = Network(seed=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.data = state["optimizer"]["slots"][name][0]
    network.expert_bias = state["expert_bias"]
    return network


def export(network: Network, tokenizer: Path, output: Path) -> None:
    """Write weights, config and tokenizer."""
    output.mkdir(parents=True, exist_ok=True)
    save_file(network.hub_tensors(), output / "model.safetensors", metadata={"format": "pt"})
    (output / "model.safetensors").chmod(0o644)  # made for its owner alone
    for name, value in (("config.json", CONFIG), ("generation_config.json", GENERATION)):
        (output / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    if tokenizer.resolve() != output.resolve():
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, output / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with the tokenizer's files")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    export(network_of(args.run), args.tokenizer, args.output)


if __name__ == "__main__":
    main()
