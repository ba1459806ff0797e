"""Figures for Prometheus: what requests cost, and what the model and the machine are doing right now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_lfm.api import Completion, temperatures
from edge_lfm.errors import EdgeLfmError
from edge_lfm.server.hosting import Hosting

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self, model: str, hosting: Hosting) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Answers, by how they ended", "outcome")
        self._prompt = self._counter("prompt_tokens", "Prompt tokens")
        self._cached = self._counter("cached_tokens", "Prompt tokens that were not computed again")
        self._generated = self._counter("generated_tokens", "Tokens generated")
        self._drafted = self._counter("drafted_tokens", "Tokens that were drafted and verified")
        self._accepted = self._counter("accepted_tokens", "Drafts that the model agreed with")
        self._first = self._histogram("time_to_first_token_seconds", "From the request to its first token", _SECONDS)
        self._queued = self._histogram("queue_seconds", "From the request to its first step", _SECONDS)
        self._token = self._histogram("token_seconds", "Mean time between the tokens of an answer", _TOKEN_SECONDS)
        self.registry.register(_Now(model, hosting))

    def note(self, ended: Completion | EdgeLfmError | None) -> None:
        """Count an answer that has ended; None: its client left."""
        if not isinstance(ended, Completion):
            self._requests.labels("cancelled" if ended is None else "failed").inc()
            return
        t = ended.timings
        self._requests.labels(ended.finish_reason).inc()
        self._prompt.inc(t.prompt_tokens)
        self._cached.inc(t.cached_tokens)
        self._generated.inc(t.completion_tokens)
        self._drafted.inc(t.drafted)
        self._accepted.inc(t.accepted)
        self._queued.observe(t.queued_s)
        self._first.observe(t.queued_s + t.prefill_s)
        if t.completion_tokens > 1:
            self._token.observe(t.decode_s / (t.completion_tokens - 1))

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"edge_lfm_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"edge_lfm_{name}", what, registry=self.registry, buckets=buckets)


class _Now(Collector):
    """What is read at the moment of asking."""

    def __init__(self, model: str, hosting: Hosting) -> None:
        self._name, self._hosting = model, hosting

    def collect(self) -> Iterator[Metric]:
        model = self._hosting.model
        yield _gauge("loaded", "Whether the model is in memory", float(model is not None))
        yield _gauge("resident_memory_bytes", "Resident memory of the process", _resident_bytes())
        zones = GaugeMetricFamily("edge_lfm_temperature_celsius", "Of the thermal zones", labels=["zone"])
        for zone, celsius in temperatures().items():
            zones.add_metric([zone], celsius)
        yield zones
        if model is None:
            return
        yield _gauge("active_requests", "Answers that are made now", model.activity.active)
        yield _gauge("waiting_requests", "Requests in the queue", model.activity.waiting)
        yield _gauge("kept_bytes", "Memory of sequences kept for reuse", model.reuse.nbytes)
        yield _gauge("kept_sequences", "Sequences kept for reuse", model.reuse.sequences)
        yield _gauge("context_tokens", "The most tokens of a conversation", model.context)
        yield _count("steps", "Steps of the model", model.steps.steps)
        yield _count("step_rows", "Tokens of all steps, of prompts and answers", model.steps.rows)
        yield _count("step_sequences", "Sequences of all steps", model.steps.feeds)
        yield _count("step_prompt_rows", "Tokens of prompts in all steps", model.steps.prompt_rows)
        experts = model.steps.experts
        yield _count("step_experts_asked", "Experts chosen by rows, of steps without prompts", experts.asked)
        yield _count("step_experts_read", "Experts that those steps read, once for all their rows", experts.read)
        if model.paging is not None:
            paging = model.paging
            yield _count("expert_hits", "Experts that were in memory", int(paging.hits.sum()))
            yield _count("expert_misses", "Experts that were read", int(paging.misses.sum()))
            yield _count("expert_read_bytes", "Bytes of experts read", paging.bytes_read)
            yield _count("expert_stall_seconds", "Time spent waiting for the disk", float(paging.stall_s.sum()))


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"edge_lfm_{name}", what, value=value)


def _count(name: str, what: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"edge_lfm_{name}", what, value=value)


def _resident_bytes() -> float:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024.0
    except OSError:
        pass
    return 0.0
