"""The scheduler's events as OpenTelemetry spans and metrics, by the semantic conventions for GenAI.

    scheduler = BudgetScheduler(backend, log=OpenTelemetryLog())

Each call that was sent becomes a client span `chat MODEL`, a child of the span that is current where the call
was made, with the granted budget beside what was used. The metrics are `gen_ai.client.token.usage` and
`gen_ai.client.operation.duration`. The application sets exporters and providers; without them the API does
nothing. The conventions are still in development. Needs `pip install 'elastic-agent[telemetry]'`.
"""

from __future__ import annotations

import time
from typing import Any

from elastic_agent import __version__
from elastic_agent.scheduler.runlog.events import GRANTS, Event

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
except ImportError as error:  # pragma: no cover
    raise ImportError("OpenTelemetry needs: pip install 'elastic-agent[telemetry]'") from error

PROVIDER = "elastic_agent"
_SCOPE = "elastic_agent"


class OpenTelemetryLog:
    """Turns events into spans and metrics.

    Args:
        tracer_provider, meter_provider: None takes the process's.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        self._usage = meter.create_histogram(
            "gen_ai.client.token.usage", unit="{token}", description="Input and output tokens of a call."
        )
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", unit="s", description="How long a call took."
        )
        self._refusals = meter.create_counter(
            "elastic_agent.refusals", unit="{call}", description="Calls refused before they were sent."
        )
        self._task_refusals = meter.create_counter(
            "elastic_agent.task_refusals", unit="{task}", description="Tasks refused at their opening."
        )
        self._grants: dict[tuple[str, int], Event] = {}

    def __call__(self, event: Event) -> None:
        """Record one event."""
        name = event["event"]
        if name in GRANTS:
            self._grants[event["task"], event["call"]] = event
        elif name == "settled":
            self._settled(event, self._grants.pop((event["task"], event["call"]), None))
        elif name == "refused":
            self._refusals.add(1, {"gen_ai.request.model": event["model"], "error.type": event["error"]})
        elif name == "task_refused":
            self._task_refusals.add(1, {"error.type": event["error"]})

    def _settled(self, event: Event, grant: Event | None) -> None:
        if event["outcome"] == "refunded":
            return  # it was never sent
        used, seconds = event["used"], event["seconds"]
        base: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": event["model"],
        }
        output = sum(used.get(name, 0) for name in ("thinking", "close", "solution", "discarded", "unknown"))
        output -= used.get("forced", 0)
        failed = {} if event["answered"] else {"error.type": used.get("solution_end") or event["outcome"]}
        now = time.time_ns()
        span = self._tracer.start_span(
            f"chat {event['model']}",
            kind=SpanKind.CLIENT,
            start_time=now - int(seconds * 1e9),
            attributes=base
            | failed
            | {
                "gen_ai.usage.input_tokens": used.get("input", 0),
                "gen_ai.usage.output_tokens": output,
                "gen_ai.usage.cache_read.input_tokens": used.get("cached", 0),
                "gen_ai.usage.reasoning.output_tokens": used.get("thinking", 0) + used.get("reopened", 0),
                "gen_ai.response.finish_reasons": [str(used.get("solution_end") or event["outcome"])],
                "elastic_agent.task": event["task"],
                "elastic_agent.call": event["call"],
                "elastic_agent.kind": event["kind"],
                "elastic_agent.charged.tokens": event["charged"]["tokens"],
                "elastic_agent.charged.usd": event["charged"]["usd"],
                "elastic_agent.thinking_end": str(used.get("thinking_end")),
            }
            | (_granted(grant) if grant else {}),
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR, failed["error.type"]))
        span.end(now)
        self._duration.record(seconds, base | failed)
        self._usage.record(used.get("input", 0), base | {"gen_ai.token.type": "input"})
        self._usage.record(output, base | {"gen_ai.token.type": "output"})


def _granted(grant: Event) -> dict[str, Any]:
    thinking, solution = grant["granted"]["thinking"], grant["granted"]["solution"]
    return {
        "gen_ai.request.max_tokens": thinking + solution,
        "elastic_agent.granted.thinking": thinking,
        "elastic_agent.granted.solution": solution,
        "elastic_agent.reason": grant["reason"],
    }
