"""Peak memory of a quantization at a published model's widths, killed on the way and resumed.

    python benchmarks/stream_quantize.py deepseek-v3 --float8 --experts 16

The source is a part of the model, its first layers and so many experts of each, whose tensors have their true widths;
it is holes in files, which take no disk and read as zeros. What is packed takes its true room.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_lfm.architectures import family_of, read_shape
from edge_lfm.formats.safetensors import header_bytes
from edge_lfm.model.plan import TENSOR_CLASSES, Schemes, plan_tensors
from edge_lfm.quantize.families import family_config

BLOCK = 128
PLAIN = ("norm", "embed_tokens", "lm_head", "mlp.gate.")
"""What stands in the names of tensors that a float8 checkpoint keeps in bfloat16."""


def part_of(name: str, layers: int | None, experts: int | None, float8: bool) -> dict[str, Any]:
    """The config of a part of a published model; None: all of it."""
    raw = dict(family_config(name))
    raw |= {"num_hidden_layers": layers} if layers else {}
    raw |= {"n_routed_experts": experts} if experts else {}
    raw |= {"num_nextn_predict_layers": 0}
    method = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    return raw | ({"quantization_config": method} if float8 else {})


def tensors_of(raw: dict[str, Any], float8: bool) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each of the hub's tensors."""
    shape, family, seen = read_shape(raw), family_of(raw), set()
    schemes = Schemes("float32", dict.fromkeys(TENSOR_CLASSES, "float32"))
    for source in (source for tensor in plan_tensors(shape, schemes) for source in tensor.sources):
        name, size = family.hub_name(source.name), source.shape
        if name in seen:
            continue
        seen.add(name)
        if name.endswith("kv_b_proj.weight"):
            latent = shape.latents[0]
            size = (latent.heads * (latent.plain + latent.value), latent.rank)
        coded = float8 and len(size) == 2 and not any(part in name for part in PLAIN)
        yield name, "F8_E4M3" if coded else "BF16", size
        if coded:
            yield f"{name}_scale_inv", "F32", (-(-size[0] // BLOCK), -(-size[1] // BLOCK))


def write_holes(folder: Path, raw: dict[str, Any], float8: bool) -> int:
    """A checkpoint of zeros; its bytes."""
    folder.mkdir()
    header, _ = header_bytes(list(tensors_of(raw, float8)), {}, 8)
    size = len(header) + max(info["data_offsets"][1] for info in json.loads(header[8:]).values())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(size)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return size


def quantize(source: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "quantize", str(source), "-o", str(output), "--json"]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--experts", type=int)
    parser.add_argument("--float8", action="store_true")
    parser.add_argument("--kill-after", type=float, default=20.0, help="seconds")
    args = parser.parse_args()
    raw = part_of(args.shape, args.layers, args.experts, args.float8)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "source", Path(folder) / "packed"
        print(
            f"source: {write_holes(source, raw, args.float8) / 1e9:.1f} GB of {'float8' if args.float8 else 'bfloat16'}"
        )
        first = quantize(source, output)
        time.sleep(args.kill_after)
        first.send_signal(signal.SIGKILL)
        first.wait()
        report = json.loads(quantize(source, output, "--resume").communicate()[0])
        print(json.dumps({key: report.get(key) for key in ("peak_memory_bytes", "resumed_tensors", "seconds")}))


if __name__ == "__main__":
    main()
