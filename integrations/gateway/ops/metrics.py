"""The gateway's metrics for Prometheus, beside the scheduler's. They hold no key, task or prompt."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from elastic_agent.scheduler.runlog.events import Event

from ...telemetry.prometheus import SECONDS, PrometheusLog

FRESH = 0.1
"""Seconds for which the same text is sent again."""


class Metrics:
    """The metrics of one gateway, in a registry of its own: a process may have two gateways.

    Of a gateway with several workers, `text` has the sums over all workers: prometheus_client keeps the
    numbers of each in a file of the folder that the environment names.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._written, self._text = float("-inf"), b""
        self._events = PrometheusLog(registry)
        name, labels = "elastic_gateway_requests_total", ["route", "status"]
        self._requests = Counter(name, "Requests.", labels, registry=registry)
        name, text = "elastic_gateway_request_seconds", "From a request's headers to the end of its answer."
        self._seconds = Histogram(name, text, ["route"], buckets=SECONDS, registry=registry)
        self.running = Gauge(
            "elastic_gateway_requests_running",
            "Requests now.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.connections = Gauge(
            "elastic_gateway_connections", "Open connections.", registry=registry, multiprocess_mode="livesum"
        )
        name = "elastic_gateway_loop_stalls_total"
        text = "Times that the event loop stood still for more than 100 ms, as a watchdog saw."
        self.stalls = Counter(name, text, registry=registry)
        text = "Tasks that clients have open here."
        self.tasks = Gauge("elastic_gateway_tasks", text, registry=registry, multiprocess_mode="livesum")

    def event(self, event: Event) -> None:
        """Count an event of the scheduler. Clients choose the kinds of calls, so kinds are no labels here."""
        kind: Any = event.get("kind")
        if kind is not None and kind != "final":
            event = event | {"kind": "call"}
        self._events(event)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self, now: float) -> bytes:
        """All metrics in the format of Prometheus, made at most ten times a second."""
        if now - self._written >= FRESH:
            self._written, self._text = now, generate_latest(_all_workers() or self.registry)
        return self._text


def _all_workers() -> CollectorRegistry | None:
    """The numbers of all workers; None: this process is the only one."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return None
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
