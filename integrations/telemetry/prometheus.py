"""The scheduler's events as Prometheus metrics.

    start_http_server(9100)
    scheduler = BudgetScheduler(backend, log=PrometheusLog())

`kind` and `model` are labels, so keep them few. Needs `pip install 'elastic-agent[telemetry]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from elastic_agent.scheduler.runlog.events import Event

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as error:  # pragma: no cover
    raise ImportError("Prometheus metrics need: pip install 'elastic-agent[telemetry]'") from error

T = TypeVar("T", Counter, Histogram)

TOKENS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SEGMENTS = ("input", "thinking", "forced", "solution", "discarded", "unknown")
"""Labels of `elastic_agent_tokens_total`: fields of `Usage`."""


class PrometheusLog:
    """Counts events. A registry takes one such log.

    Args:
        registry: where the metrics are registered; the process's by default.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._children: dict[tuple[Counter | Histogram, tuple[str, ...]], Counter | Histogram] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"elastic_agent_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"elastic_agent_{name}", text, labels, buckets=buckets, registry=registry)

        call = ("model", "kind")
        self._open = Gauge(
            "elastic_agent_tasks_open", "Tasks that are open.", registry=registry, multiprocess_mode="livesum"
        )
        self._tasks = counter("tasks_total", "Tasks that ended, by the error that ended them.", "error")
        self._tasks_refused = counter(
            "task_refusals_total", "Tasks refused at their opening, by error.", "error"
        )
        outcomes = "Calls by outcome: answered, stopped, unsent, refused, withdrawn."
        self._calls = counter("calls_total", outcomes, *call, "outcome")
        self._refused = counter("refusals_total", "Refused calls by error.", *call, "error")
        self._waits = counter("waits_total", "Calls that had to wait for refunds.", *call)
        self._extended = counter("extended_total", "Thinking limits extended while a call ran.", *call)
        self._reduced = counter("reduced_total", "Thinking limits reduced for another call.", *call)
        self._tokens = counter("tokens_total", "Tokens used, by segment.", "model", "segment")
        self._usd = counter("usd_total", "Dollars charged.", "model")
        self._ends = counter("thinking_ends_total", "How thinking ended.", "model", "end")
        granted = "Thinking tokens granted to a call."
        self._granted = histogram("granted_thinking_tokens", granted, TOKENS, *call)
        self._waited = histogram("wait_seconds", "From arrival to grant.", SECONDS, "model")
        self._seconds = histogram("call_seconds", "From grant to end.", SECONDS, "model")

    def __call__(self, event: Event) -> None:
        """Count one event; events without a metric are ignored."""
        name = event["event"]
        if name == "task_opened":
            self._open.inc()
        elif name == "task_refused":
            self._of(self._tasks_refused, event["error"]).inc()
        elif name == "task_closed":
            self._open.dec()
            self._of(self._tasks, event["error"] or "").inc()
        elif "model" in event and "kind" in event:
            self._call(name, event, event["model"], event["kind"])

    def _call(self, name: str, event: Event, model: str, kind: str) -> None:
        if name == "grant":
            self._of(self._granted, model, kind).observe(event["granted"]["thinking"])
            self._of(self._waited, model).observe(event["why"]["waited"])
        elif name == "refused":
            self._of(self._refused, model, kind, event["error"]).inc()
        elif name == "settled":
            self._settled(event, model)
        counted = {"waiting": self._waits, "extended": self._extended, "reduced": self._reduced}
        if name in counted:
            self._of(counted[name], model, kind).inc()
        if name in ("refused", "withdrawn", "settled"):
            self._of(self._calls, model, kind, _outcome(event) if name == "settled" else name).inc()

    def _settled(self, event: Event, model: str) -> None:
        self._of(self._usd, model).inc(event["charged"]["usd"])
        if event["outcome"] == "refunded":  # it was never sent
            return
        used = event["used"]
        self._of(self._seconds, model).observe(event["seconds"])
        for segment in SEGMENTS:
            self._of(self._tokens, model, segment).inc(used.get(segment, 0))
        if used.get("thinking_end"):
            self._of(self._ends, model, used["thinking_end"]).inc()

    def _of(self, metric: T, *labels: str) -> T:
        """A metric's child with these labels. Cached, because prometheus_client's look-up is slow."""
        key = metric, labels
        if (child := self._children.get(key)) is None:
            child = self._children[key] = metric.labels(*labels)
        return cast("T", child)


def _outcome(event: Event) -> str:
    if event["outcome"] == "refunded":
        return "unsent"
    return "answered" if event["answered"] else "stopped"
