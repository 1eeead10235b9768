"""The scheduler's events as Prometheus metrics.

    start_http_server(9100)
    scheduler = BudgetScheduler(backend, log=PrometheusLog())

`kind` and `model` are labels, so keep them few. Needs `pip install 'elastic-agent[telemetry]'`.
"""

from __future__ import annotations

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

        def named(name: str) -> str:
            return f"elastic_agent_{name}"

        call = ("model", "kind")
        self._tasks = Gauge(named("tasks_open"), "Tasks that are open.", registry=registry)
        self._ended = Counter(
            named("tasks_total"),
            "Tasks that ended, by the error that ended them.",
            ["error"],
            registry=registry,
        )
        self._calls = Counter(
            named("calls_total"),
            "Calls by outcome: answered, stopped, unsent, refused, withdrawn.",
            [*call, "outcome"],
            registry=registry,
        )
        self._refused = Counter(
            named("refusals_total"), "Refused calls by error.", [*call, "error"], registry=registry
        )
        self._tasks_refused = Counter(
            named("task_refusals_total"),
            "Tasks refused at their opening, by error.",
            ["error"],
            registry=registry,
        )
        self._waiting = Counter(
            named("waits_total"), "Calls that had to wait for refunds.", call, registry=registry
        )
        self._tokens = Counter(
            named("tokens_total"), "Tokens used, by segment.", ["model", "segment"], registry=registry
        )
        self._usd = Counter(named("usd_total"), "Dollars charged.", ["model"], registry=registry)
        self._granted = Histogram(
            named("granted_thinking_tokens"),
            "Thinking tokens granted to a call.",
            call,
            buckets=TOKENS,
            registry=registry,
        )
        self._waited = Histogram(
            named("wait_seconds"), "From arrival to grant.", ["model"], buckets=SECONDS, registry=registry
        )
        self._extended = Counter(
            named("extended_total"), "Thinking limits extended while a call ran.", call, registry=registry
        )
        self._reduced = Counter(
            named("reduced_total"), "Thinking limits reduced for another call.", call, registry=registry
        )
        self._seconds = Histogram(
            named("call_seconds"), "From grant to end.", ["model"], buckets=SECONDS, registry=registry
        )
        self._ends = Counter(
            named("thinking_ends_total"), "How thinking ended.", ["model", "end"], registry=registry
        )

    def __call__(self, event: Event) -> None:
        """Count one event; events without a metric are ignored."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _of(self, metric: T, *labels: str) -> T:
        """A metric's child with these labels. Cached, because prometheus_client's look-up is slow."""
        key = metric, labels
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return cast("T", child)

    def _on_task_opened(self, event: Event) -> None:
        self._tasks.inc()

    def _on_task_refused(self, event: Event) -> None:
        self._of(self._tasks_refused, event["error"]).inc()

    def _on_task_closed(self, event: Event) -> None:
        self._tasks.dec()
        self._of(self._ended, event["error"] or "").inc()

    def _on_waiting(self, event: Event) -> None:
        self._of(self._waiting, *_call(event)).inc()

    def _on_grant(self, event: Event) -> None:
        self._of(self._granted, *_call(event)).observe(event["granted"]["thinking"])
        self._of(self._waited, event["model"]).observe(event["why"]["waited"])

    def _on_extended(self, event: Event) -> None:
        self._of(self._extended, *_call(event)).inc()

    def _on_reduced(self, event: Event) -> None:
        self._of(self._reduced, *_call(event)).inc()

    def _on_refused(self, event: Event) -> None:
        self._of(self._calls, *_call(event), "refused").inc()
        self._of(self._refused, *_call(event), event["error"]).inc()

    def _on_withdrawn(self, event: Event) -> None:
        self._of(self._calls, *_call(event), "withdrawn").inc()

    def _on_settled(self, event: Event) -> None:
        model, used = event["model"], event["used"]
        sent = event["outcome"] != "refunded"
        self._of(self._calls, *_call(event), _outcome(event)).inc()
        self._of(self._usd, model).inc(event["charged"]["usd"])
        if not sent:
            return
        self._of(self._seconds, model).observe(event["seconds"])
        for segment in SEGMENTS:
            self._of(self._tokens, model, segment).inc(used.get(segment, 0))
        if used.get("thinking_end"):
            self._of(self._ends, model, used["thinking_end"]).inc()


def _call(event: Event) -> tuple[str, str]:
    return event["model"], event["kind"]


def _outcome(event: Event) -> str:
    if event["outcome"] == "refunded":
        return "unsent"
    return "answered" if event["answered"] else "stopped"
