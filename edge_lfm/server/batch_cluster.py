"""A batch on every machine of a Ray cluster: Ray Data gives the lines out and brings the answers back.

Each machine has one model, which all of its processors are reserved for, and answers as many lines together as it does
on its own. Ray neither restarts a model nor repeats a line: where a machine is lost, the lines without an answer go to
those that are left, as in a run that is called again. Only this file imports Ray.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import msgspec

from edge_lfm.errors import EdgeLfmError, MissingExtraError, UsageError
from edge_lfm.server.batch import Answerer, Json
from edge_lfm.server.batch_lines import Line, Requests
from edge_lfm.server.batch_output import BatchOutput
from edge_lfm.server.settings import Settings

_TOGETHER = 32
"""Lines that a machine has at a time: a model makes 16 answers together by default, and the next are prepared."""
_CONNECT_S = 10.0
_BLOCKS = 10_000
"""Parts that the lines are given out in, at most: Ray keeps a record of each."""


def answer_on_cluster(
    address: str,
    settings: Callable[[], Settings],
    requests: Requests,
    output: BatchOutput,
    take: Callable[[Json], object],
) -> int:
    """Answer the lines that the output has no answer to; the machines that were lost.

    Args:
        address: of the cluster, as `ray.init` wants it: "auto", or HOST:PORT.
        settings: called on each machine; what its model is.
        take: gets each record when it is there, and writes it to `output`.

    Raises:
        UsageError: there is no such cluster, or it has no processors.
        EdgeLfmError: a machine cannot load its model, or lines failed and no machine was lost, or what `take` raises.
    """
    ray, lost = _ray(), 0
    with _connected(ray, address):
        while lines := requests.left(output):
            machines = _machines(ray)
            try:
                for record in _answer(ray, machines, settings, requests, lines):
                    take(record)
            except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
                gone = set(machines) - set(_machines(ray))
                if not gone and len(requests.left(output)) == len(lines):
                    reason = " ".join(str(error).split())[:300]
                    raise EdgeLfmError(f"the cluster fails: {reason}", hint="ask ray status; run it again") from None
                lost += len(gone)
    return lost


@dataclass(frozen=True)
class _Machine:
    """A node of the cluster that has processors."""

    node: str
    cpus: float


class _Worker:
    """What runs on a machine: its model, loaded when the first line comes. Ray makes it, and ends it."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings, self._loading = settings, asyncio.Lock()
        self._answerer: Answerer | None = None

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A line's record, or why this machine has none to give."""
        try:
            answer = await (await self._load()).answer(row["raw"])
        except EdgeLfmError as error:
            return {"record": b"", "fault": f"{_ray().util.get_node_ip_address()}: {error}"}
        return {"record": msgspec.json.encode(msgspec.json.decode(row["head"]) | answer), "fault": ""}

    async def _load(self) -> Answerer:
        async with self._loading:
            if self._answerer is None:
                self._answerer = await Answerer(await asyncio.to_thread(self._settings)).__aenter__()
        return self._answerer


def _answer(
    ray: Any,
    machines: list[_Machine],
    settings: Callable[[], Settings],
    requests: Requests,
    lines: list[Line],
) -> Iterator[Json]:
    """The records of lines, as they come; ends with the first machine that fails."""
    pairs = zip(lines, requests.texts(lines), strict=True)
    rows = [{"head": msgspec.json.encode(line.head), "raw": raw} for line, raw in pairs]
    turns = itertools.cycle(machines)

    def place() -> dict[str, Any]:
        machine = next(turns)
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(machine.node, soft=False)
        return {"scheduling_strategy": strategy, "num_cpus": machine.cpus, "max_restarts": 0}

    pool = ray.data.ActorPoolStrategy(
        size=len(machines), max_tasks_in_flight_per_actor=_TOGETHER, max_concurrent_calls_per_actor=_TOGETHER
    )
    answered = ray.data.from_items(rows, override_num_blocks=min(len(rows), _BLOCKS)).map(
        _Worker,
        fn_constructor_args=(settings,),
        compute=pool,
        num_cpus=min(machine.cpus for machine in machines),
        ray_remote_args_fn=place,
    )
    for row in answered.iter_rows():
        if row["fault"]:
            raise EdgeLfmError(row["fault"], hint="mend that machine; run it again to go on")
        yield msgspec.json.decode(row["record"])


def _machines(ray: Any) -> list[_Machine]:
    """Those that live and have processors.

    Raises:
        UsageError: none.
    """
    nodes = [_Machine(node["NodeID"], node["Resources"].get("CPU", 0.0)) for node in ray.nodes() if node["Alive"]]
    if machines := sorted((machine for machine in nodes if machine.cpus), key=lambda machine: machine.node):
        return machines
    raise UsageError("no machine of the cluster has processors", hint="start some with ray start --address")


def _ray() -> Any:
    try:
        import ray
        import ray.data.exceptions
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise MissingExtraError(f"--ray needs the package {error.name}", extra="ray") from None
    return ray


def _check_reachable(address: str) -> None:
    """Refuse HOST:PORT where nobody listens: Ray would try for minutes.

    Raises:
        UsageError: it is so.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        try:
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise UsageError(f"no Ray cluster at {address}: {error}", hint="start one with ray start --head") from None


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to the cluster. Ray says nothing on the terminal meanwhile: its logs lie in its session's folder."""
    _check_reachable(address)
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers = [h for h in logger.handlers if not isinstance(h, logging.StreamHandler)]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"no Ray cluster at {address}: {reason}", hint="start one with ray start --head") from None
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.target_max_block_size = 1  # an answer comes when it is there, not with others
            yield
        finally:
            ray.shutdown()
