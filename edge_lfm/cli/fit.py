"""`edge-lfm fit MODEL`: what a device will do with a model, before anything is downloaded."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_lfm.architectures import read_shape
from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.devices.estimate import Fit, Machine, estimate
from edge_lfm.devices.profiles import find_device
from edge_lfm.devices.targets import find_target
from edge_lfm.errors import UsageError
from edge_lfm.formats.strict import read_json
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.machine.processors import choose_threads
from edge_lfm.measure.hardware import Measured, measure_machine
from edge_lfm.memory.budget import Budget, parse_size
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_model import PackedModel, is_packed
from edge_lfm.model.plan import Schemes, plan_tensors
from edge_lfm.paths import cache_folder
from edge_lfm.quantize.families import FAMILY, SMALLER, family_config
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.shape import Shape

HELP = "tell what a device will do with a model"
EXAMPLE = "edge-lfm fit lfm2-24b-a2b --device rpi5-8g"
PREFILL_SHARE = 0.35
"""Of the int8 peak: what a prefill of 512 tokens reaches: 37 % for the 8B's shape, 31 for the 24B's (two cores,
AVX-512)."""
DEFAULT_CONTEXT = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"a packed model's folder, a checkpoint's folder, or one of {', '.join(FAMILY)}")
    parser.add_argument("--device", metavar="ID", help="one of `edge-lfm devices`, as rpi5-8g (default: this machine)")
    parser.add_argument("--recipe", default="balanced", help="how it is, or will be, quantized (default: balanced)")
    parser.add_argument("--ram", metavar="SIZE", help="memory that the model may take (default: what the device has)")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a conversation (default 4096)")
    parser.add_argument("--storage", metavar="NAME", help="one of the device's kinds of storage")
    parser.add_argument("--uniform", action="store_true", help="reckon with random routing, as of synthetic models")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


@dataclass(frozen=True)
class Place:
    """Where the model is to run. isa: for people; why: what its figures rest on."""

    name: str
    isa: str
    machine: Machine
    storage: str
    why: tuple[str, ...]


def run(args: argparse.Namespace) -> None:
    shape, schemes = shape_of(args.model, args.recipe)
    if args.context is None:
        args.context = min(DEFAULT_CONTEXT, shape.context)
    if not 1 <= args.context <= shape.context:
        raise UsageError(f"a context of {args.context}", hint=f"this model can do 1..{shape.context}")
    place = place_of(args)
    found = estimate(demand_of(shape, plan_tensors(shape, schemes)), place.machine, args.context, args.uniform)
    if args.json:
        print_json({"model": args.model, "device": asdict(place), "fit": asdict(found)})
        return
    tell(args, shape, schemes, place, found)


def shape_of(model: str, recipe: str) -> tuple[Shape, Schemes]:
    """A model's shapes and schemes: of a packed folder its own, else of a checkpoint or a published name by a recipe.

    Raises:
        EdgeLfmError: there is no such model or recipe.
    """
    if packed_folder(model) is not None:
        with PackedModel(Path(model)) as packed:
            return packed.shape, packed.schemes
    if (Path(model) / "config.json").exists():
        path = Path(model) / "config.json"
        return read_shape(read_json(path), str(path)), find_recipe(recipe).schemes
    return read_shape(family_config(model)), find_recipe(recipe).schemes


def packed_folder(model: str) -> Path | None:
    """The folder, if it is that of a packed model."""
    folder = Path(model)
    return folder if (folder / "config.json").exists() and is_packed(folder) else None


def place_of(args: argparse.Namespace) -> Place:
    """The device that was named, or this machine, measured."""
    if args.device is None:
        if args.storage:
            raise UsageError("--storage goes with --device", hint="this machine's storage is measured")
        folder = packed_folder(args.model) or cache_folder()
        print("measuring this machine ...", file=sys.stderr)
        return measured_place(measure_machine(load_kernels(), choose_threads(), folder), Budget.of(args.ram).nbytes)
    device = find_device(args.device)
    storage = args.storage or device.default_storage
    if storage not in device.storage:
        raise UsageError(f"{device.name} has no storage '{storage}'", hint=f"choose one of {', '.join(device.storage)}")
    memory = parse_size(args.ram) if args.ram else device.usable_bytes
    machine = Machine(memory, device.read_gbps, device.int8_gops, device.prefill_share, device.storage[storage])
    isa = find_target(device.target).isa.name
    return Place(f"{device.name}, {device.memory_gb[0]:g} GB", isa, machine, storage, device.sources)


def measured_place(found: Measured, memory: int) -> Place:
    machine = Machine(memory, found.read_gbps, found.int8_gops, PREFILL_SHARE, found.storage_gbps or 0.5)
    why = ("all measured just now" if found.storage_gbps else "storage could not be measured: 0.5 GB/s assumed",)
    return Place(f"this machine, {found.threads} threads", found.isa, machine, "as measured", why)


def tell(args: argparse.Namespace, shape: Shape, schemes: Schemes, place: Place, found: Fit) -> None:
    demand, machine = demand_of(shape, plan_tensors(shape, schemes)), place.machine
    print(f"{args.model} ({schemes.recipe}, {gigabytes(demand.file_bytes)}) on {place.name} ({place.isa})")
    if not found.fits:
        print(f"  does not fit: {gigabytes(found.missing_bytes)} of memory are missing")
    elif found.kept == 1.0:
        print(f"  fits into {gigabytes(machine.memory_bytes)} with a context of {args.context} tokens")
    else:
        kept = round(found.kept * demand.experts)
        print(f"  pages its experts: {kept} of {demand.experts} per layer stay in {gigabytes(machine.memory_bytes)}")
        read = found.read_bytes_per_token / 1e6
        print(f"  {found.hit_rate:.0%} of uses are expected there; {read:.0f} MB read per token")
    if found.fits:
        print(f"  decode   about {found.decode_tps:.1f} tok/s, bound by {found.bound}")
        print(f"  prefill  about {found.prefill_tps:.0f} tok/s (chunks of 512)")
        basis = f"{demand.bytes_per_token / 1e9:.2f} GB a token at {machine.read_gbps:.1f} GB/s"
        storage = f", storage {machine.storage_gbps:.2f} GB/s ({place.storage})" if found.kept < 1 else ""
        print(f"  from     {basis}, {machine.int8_gops:.0f} int8 GOPS of which {machine.prefill_share:.0%}{storage}")
    for line in advice(args, shape, schemes, place, found):
        print(f"  {line}")
    for line in place.why:
        print(f"  source: {line}")


def advice(args: argparse.Namespace, shape: Shape, schemes: Schemes, place: Place, found: Fit) -> list[str]:
    """What would help: more memory, faster storage, a smaller model."""
    lines = []
    demand = demand_of(shape, plan_tensors(shape, schemes))
    if found.fits and found.kept < 1 and found.bound == "storage":
        faster = replace(place.machine, storage_gbps=2 * place.machine.storage_gbps)
        gain = estimate(demand, faster, args.context, args.uniform).decode_tps
        lines.append(f"storage twice as fast: {gain:.1f} tok/s")
    if found.fits and found.kept < 1:
        larger = replace(place.machine, memory_bytes=2 * place.machine.memory_bytes)
        gain = estimate(demand, larger, args.context, args.uniform).decode_tps
        lines.append(f"twice the memory: {gain:.1f} tok/s")
    if not found.fits or found.decode_tps < 3:
        for name in SMALLER:
            other, plan = read_shape(family_config(name)), find_recipe("balanced").schemes
            smaller = estimate(demand_of(other, plan_tensors(other, plan)), place.machine, args.context)
            if smaller.fits and smaller.decode_tps >= max(3.0, 1.5 * found.decode_tps):
                lines.append(f"{name} would do about {smaller.decode_tps:.1f} tok/s here")
                break
    return lines
