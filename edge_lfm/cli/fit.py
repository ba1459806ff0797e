"""`edge-lfm fit MODEL`: what a device will do with a model, before anything is downloaded."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from edge_lfm.architectures import read_shape
from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.cli.fit_recipes import Choice, best_recipe, lines_of, recipes_of, weigh_recipes
from edge_lfm.demo import packed_demo
from edge_lfm.devices.estimate import Demand, Fit, Machine, does_not_fit, estimate
from edge_lfm.devices.profiles import find_device
from edge_lfm.devices.targets import find_target
from edge_lfm.errors import UsageError
from edge_lfm.formats import mxfp4
from edge_lfm.formats.strict import read_json
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.schemes import scheme_like
from edge_lfm.machine.processors import choose_threads, physical_cores
from edge_lfm.measure.hardware import Measured, measure_machine
from edge_lfm.memory.budget import Budget, parse_size, unit_of
from edge_lfm.memory.caches import kv_read_bytes
from edge_lfm.memory.plan import MemoryPlan, Wishes, plan_memory
from edge_lfm.model.demand import planned_demand
from edge_lfm.model.packed_model import PackedModel, is_packed
from edge_lfm.model.plan import Schemes
from edge_lfm.paths import cache_folder
from edge_lfm.quantize.families import SMALLER, family_config
from edge_lfm.quantize.fitting import what_fits
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.shape import Shape

DEPTHS = (8192, 32768)
"""Tokens of conversations whose decode speed is told."""
PREFILL_SHARE = 0.35
"""Of the int8 peak: what a prefill of 512 tokens reaches: 37 % for the 8B's shape, 31 for the 24B's (two cores,
AVX-512)."""


@dataclass(frozen=True)
class Place:
    """Where the model is to run. isa: for people; budget: memory for the model; why: what its figures rest on."""

    name: str
    isa: str
    machine: Machine
    budget: Budget
    threads: int
    storage: str
    why: tuple[str, ...]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Plans are hundreds of thousands of small objects, none of them in a cycle: looking for cycles took half of the
    10 s that MiniMax-M2 took."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collector()
def run(args: argparse.Namespace) -> None:
    args.model = args.model or str(packed_demo())
    shape, schemes = shape_of(args.model, args.recipe)
    if args.context is not None and not 1 <= args.context <= shape.context:
        raise UsageError(f"a context of {args.context}", hint=f"this model can do 1..{shape.context}")
    place, choices = place_of(args), list[Choice]()
    if schemes is None:
        published = published_experts(args.model)
        recipes = recipes_of(shape, published)
        speed_with = partial(outcome, args, shape, place)
        choices = weigh_recipes(recipes, speed_with, place.isa, args.loss, published)
        best = best_recipe(choices)
        schemes = next(recipe.schemes for recipe in recipes if recipe.name == best)
    demand = planned_demand(shape, schemes)
    plan = plan_for(shape, demand, place, args.context)
    speed = speed_of(demand, plan, place, args.uniform)
    depths = speed_after(args, shape, demand, place)
    if args.json:
        told = {"device": asdict(place), "fit": asdict(speed), "context": plan.context, "recipe": schemes.recipe}
        told |= {"decode_tps_after": depths}
        print_json({"model": args.model} | told | {"recipes": [asdict(choice) for choice in choices]})
        return
    print(f"{args.model} ({schemes.recipe}, {gigabytes(demand.file_bytes)}) on {place.name} ({place.isa})")
    tell(demand, place, plan, speed, depths)
    for line in [*advice(args, shape, demand, place, speed), *lines_of(choices, schemes.recipe)]:
        print(f"  {line}")
    for line in place.why:
        print(f"  source: {line}")


def plan_for(shape: Shape, demand: Demand, place: Place, context: int | None) -> MemoryPlan:
    """How loading would spend the memory of a place."""
    return plan_memory(shape, demand, place.budget, Wishes(context=context, threads=place.threads))


def speed_of(demand: Demand, plan: MemoryPlan, place: Place, uniform: bool) -> Fit:
    """What to expect of a model that is loaded so."""
    missing = plan.missing_bytes
    return does_not_fit(missing) if missing else estimate(demand, place.machine, plan.kept, uniform)


def speed_after(args: argparse.Namespace, shape: Shape, demand: Demand, place: Place) -> dict[int, float]:
    """Decode, tokens per second, by how many tokens have been read: their keys and values are read with the weights,
    and the context that they need takes memory from the experts. Depths that do not fit are left out."""
    found = {}
    for depth in (depth for depth in DEPTHS if depth <= (args.context or shape.context)):
        plan = plan_for(shape, demand, place, args.context or depth)
        deep = replace(demand, bytes_per_token=demand.bytes_per_token + kv_read_bytes(shape, depth, Wishes().kv_dtype))
        if (speed := speed_of(deep, plan, place, args.uniform)).fits:
            found[depth] = speed.decode_tps
    return found


def outcome(args: argparse.Namespace, shape: Shape, place: Place, schemes: Schemes) -> tuple[int, Fit]:
    """File size and speed in a place of a model that is quantized so."""
    demand = planned_demand(shape, schemes)
    return demand.file_bytes, speed_of(demand, plan_for(shape, demand, place, args.context), place, args.uniform)


def shape_of(model: str, recipe: str | None) -> tuple[Shape, Schemes | None]:
    """A model's shapes and schemes: of a packed folder its own, else of a checkpoint or a published name by a recipe;
    None: it was not said which.

    Raises:
        EdgeLfmError: there is no such model or recipe.
    """
    if packed_folder(model) is not None:
        with PackedModel(Path(model)) as packed:
            return packed.shape, packed.schemes
    if (Path(model) / "config.json").exists():
        path = Path(model) / "config.json"
        return read_shape(read_json(path), str(path)), find_recipe(recipe).schemes if recipe else None
    return read_shape(family_config(model)), find_recipe(recipe).schemes if recipe else None


def published_experts(model: str) -> str | None:
    """The scheme that holds exactly what a checkpoint's or a published model's experts are; None: they are floats."""
    path = Path(model) / "config.json"
    raw = read_json(path) if path.exists() else family_config(model)
    same = scheme_like(mxfp4.KIND) if mxfp4.says_so(raw) else None
    return same.name if same else None


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
        budget = Budget.of(args.ram)
        return measured_place(measure_machine(load_kernels(), choose_threads(), folder), budget)
    device = find_device(args.device)
    storage = args.storage or device.default_storage
    if storage not in device.storage:
        raise UsageError(f"{device.name} has no storage '{storage}'", hint=f"choose one of {', '.join(device.storage)}")
    budget = Budget(device.usable_bytes, stated=True)
    if args.ram:
        budget = Budget(parse_size(args.ram), stated=True, unit=unit_of(args.ram))
    machine = Machine(device.read_gbps, device.int8_gops, device.prefill_share, device.storage[storage])
    isa = find_target(device.target).isa.name
    name = f"{device.name}, {device.memory_gb[0]:g} GB"
    return Place(name, isa, machine, budget, device.cores, storage, device.sources)


def measured_place(measured: Measured, budget: Budget) -> Place:
    machine = Machine(measured.read_gbps, measured.int8_gops, PREFILL_SHARE, measured.storage_gbps or 0.5)
    why = ("all measured just now" if measured.storage_gbps else "storage could not be measured: 0.5 GB/s assumed",)
    name = f"this machine, {measured.threads} threads"
    return Place(name, measured.isa, machine, budget, physical_cores(), "as measured", why)


def tell(demand: Demand, place: Place, plan: MemoryPlan, verdict: Fit, depths: dict[int, float]) -> None:
    machine, show = place.machine, place.budget.show
    if not verdict.fits:
        print(f"  does not fit: {show(verdict.missing_bytes)} of memory are missing")
        return
    conversations = f"{plan.parallel} at a time" if plan.parallel > 1 else "one at a time"
    where = f"{show(place.budget.nbytes)} with a context of {plan.context} tokens, {conversations}"
    if verdict.kept == 1.0:
        print(f"  fits into {where}")
    else:
        print(f"  pages its experts: {verdict.kept * demand.experts:.0f} of {demand.experts} per layer stay in {where}")
        read = verdict.read_bytes_per_token / 1e6
        print(f"  {verdict.hit_rate:.0%} of uses are expected there; {read:.0f} MB read per token")
    print(f"  decode   about {verdict.decode_tps:.1f} tok/s, bound by {verdict.bound}")
    if depths:
        print(f"           {', '.join(f'{tps:.1f} after {depth} tokens' for depth, tps in depths.items())}")
    print(f"  prefill  about {verdict.prefill_tps:.0f} tok/s (chunks of 512)")
    basis = f"{demand.bytes_per_token / 1e9:.2f} GB a token at {machine.read_gbps:.1f} GB/s"
    storage = f", storage {machine.storage_gbps:.2f} GB/s ({place.storage})" if verdict.kept < 1 else ""
    print(f"  from     {basis}, {machine.int8_gops:.0f} int8 GOPS of which {machine.prefill_share:.0%}{storage}")


def advice(args: argparse.Namespace, shape: Shape, demand: Demand, place: Place, verdict: Fit) -> list[str]:
    """What would help: more memory, faster storage, a smaller model."""
    lines = []
    if not verdict.fits:
        lines.append(what_fits(shape, place.budget, Wishes(context=args.context, threads=place.threads)))

    def speed(place: Place) -> float:
        return speed_of(demand, plan_for(shape, demand, place, args.context), place, args.uniform).decode_tps

    if verdict.fits and verdict.kept < 1 and verdict.bound == "storage":
        faster = replace(place.machine, storage_gbps=2 * place.machine.storage_gbps)
        lines.append(f"storage twice as fast: {speed(replace(place, machine=faster)):.1f} tok/s")
    if verdict.fits and verdict.kept < 1:
        larger = replace(place.budget, nbytes=2 * place.budget.nbytes)
        lines.append(f"twice the memory: {speed(replace(place, budget=larger)):.1f} tok/s")
    if not verdict.fits or verdict.decode_tps < 3:
        for name in SMALLER:
            other, schemes = read_shape(family_config(name)), find_recipe("balanced").schemes
            needs = planned_demand(other, schemes)
            smaller = speed_of(needs, plan_for(other, needs, place, None), place, False)
            if smaller.fits and smaller.decode_tps >= max(3.0, 1.5 * verdict.decode_tps):
                lines.append(f"{name} would do about {smaller.decode_tps:.1f} tok/s here")
                break
    return lines
