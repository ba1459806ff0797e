"""Peak memory of a quantization at a published model's widths, killed on the way and resumed.

    python benchmarks/stream_quantize.py deepseek-v3 --layers 3                   # one dense, two sparse; to the end
    python benchmarks/stream_quantize.py deepseek-v3 --work DIR --stop-after 300  # all layers, a part of the packing

The source has the names and widths of the model, a shard a layer; it is holes in files, which take no disk and read as
zeros. What is packed takes its true room. With --stop-after the resumed run is killed as well, after so many seconds:
the program then has had the names and the plan of all tensors in memory, and has packed the first of them. It reserves
the whole output, so DIR needs that much room. A file system in a file of holes will do:
`truncate -s 600G F; mkfs.ext4 -O ^has_journal F; mount -o loop,discard F DIR`.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paged_scale import cut

from edge_lfm.architectures import family_of, read_shape
from edge_lfm.formats.safetensors import header_bytes
from edge_lfm.model.plan import TENSOR_CLASSES, Schemes, plan_tensors
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.output import JOURNAL, stage_of

BLOCK = 128
PLAIN = ("norm", "embed_tokens", "lm_head", ".gate.weight")
"""What stands in the names of tensors that a float8 checkpoint keeps in bfloat16."""
EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


def part_of(name: str, layers: int | None, experts: int | None, float8: bool) -> dict[str, Any]:
    """The config of a part of a published model; None: all of it."""
    raw = family_config(name) | {"num_nextn_predict_layers": 0}
    raw = cut(raw, layers) if layers else raw
    raw |= {key: experts for key in EXPERTS if experts and key in raw}
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


def write_holes(folder: Path, raw: dict[str, Any], float8: bool) -> tuple[int, int]:
    """A checkpoint of zeros; its tensors and bytes."""
    folder.mkdir()
    shards: dict[str, list[tuple[str, str, tuple[int, ...]]]] = {}
    for tensor in tensors_of(raw, float8):
        layer = re.match(r"model\.layers\.(\d+)\.", tensor[0])
        shards.setdefault(f"model-{layer[1] if layer else 'rest'}.safetensors", []).append(tensor)
    total = 0
    for shard, tensors in shards.items():
        header, _ = header_bytes(tensors, {}, 8)
        size = len(header) + max(info["data_offsets"][1] for info in json.loads(header[8:]).values())
        with (folder / shard).open("wb") as file:
            file.write(header)
            file.truncate(size)
        total += size
    places = {name: shard for shard, tensors in shards.items() for name, _, _ in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return len(places), total


def quantize(source: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "quantize", str(source), "-o", str(output), "--json"]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def kill_after(running: subprocess.Popen[str], seconds: float, output: Path) -> None:
    """Kill it then, and tell what it had."""
    time.sleep(seconds)
    status = Path(f"/proc/{running.pid}/status").read_text(encoding="ascii")
    running.send_signal(signal.SIGKILL)
    running.wait()
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    journal = stage_of(output) / JOURNAL
    finished = len(journal.read_text(encoding="utf-8").splitlines()) - 1 if journal.exists() else 0
    told = {"peak_memory_bytes": int(peak[1]) * 1024 if peak else None, "finished_tensors": finished}
    print(json.dumps(told | {"seconds": seconds, "killed": True}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--experts", type=int)
    parser.add_argument("--float8", action="store_true")
    parser.add_argument("--work", type=Path, help="where source and output are made")
    parser.add_argument("--kill-after", type=float, default=20.0, help="seconds")
    parser.add_argument("--stop-after", type=float, help="seconds of the resumed run; default: to its end")
    args = parser.parse_args()
    raw = part_of(args.shape, args.layers, args.experts, args.float8)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        source, output = Path(folder) / "source", Path(folder) / "packed"
        tensors, size = write_holes(source, raw, args.float8)
        print(
            f"source: {tensors} tensors, {size / 1e9:.1f} GB of {'float8' if args.float8 else 'bfloat16'}", flush=True
        )
        kill_after(quantize(source, output), args.kill_after, output)
        resumed = quantize(source, output, "--resume")
        if args.stop_after:
            kill_after(resumed, args.stop_after, output)
            return
        report = json.loads(resumed.communicate()[0])
        print(json.dumps({key: report.get(key) for key in ("peak_memory_bytes", "resumed_tensors", "seconds")}))


if __name__ == "__main__":
    main()
