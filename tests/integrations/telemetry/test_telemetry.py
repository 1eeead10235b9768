"""Events in Prometheus and OpenTelemetry, by their own libraries: the numbers are those of the report."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError
from elastic_agent.integrations.telemetry.opentelemetry import OpenTelemetryLog
from elastic_agent.integrations.telemetry.prometheus import PrometheusLog
from elastic_agent.scheduler import BudgetScheduler, Price, TaskReport
from elastic_agent.scheduler.runlog.events import Log
from tests.clock import run

THINKER = Reply(thinking="hm " * 60, solution="so the answer is 42")


def work(log: Log, backend: ScriptedBackend) -> TaskReport:
    """Three calls, one that is cancelled in mid-thought, one that the cap refuses, and a task that is too
    small.
    """

    async def main() -> TaskReport:
        scheduler = BudgetScheduler(backend, price=Price("0.5", "2"), log=log)
        async with scheduler, scheduler.task(Caps(tokens=400)) as task:
            for i in range(3):
                await task.generate(f"step {i}", kind="step", thinking=30, solution=30)
            gone = asyncio.ensure_future(task.generate("gone", kind="gone", thinking=30, solution=20))
            await asyncio.sleep(0.15)
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            with suppress(CapExceededError):
                await task.generate("too long", kind="long", solution=500, on_exhausted="raise")
            with suppress(CapExceededError):
                task.task(Caps(tokens=4)).open()
        return task.report()

    return run(main())


def test_prometheus_has_the_reports_numbers(tmp_path: Path) -> None:
    """Beside a run.jsonl: events go to both."""
    registry = CollectorRegistry()
    backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.01)
    report = work([PrometheusLog(registry), tmp_path / "run.jsonl"], backend)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"elastic_agent_{name}", labels)

    model = backend.model
    assert value("calls_total", model=model, kind="step", outcome="answered") == 3
    assert value("calls_total", model=model, kind="gone", outcome="stopped") == 1
    assert value("refusals_total", model=model, kind="long", error="CapExceededError") == 1
    assert value("task_refusals_total", error="CapExceededError") == 1
    thinking = sum(call.usage.thinking for call in report.calls)
    assert value("tokens_total", model=model, segment="thinking") == thinking > 0
    assert value("usd_total", model=model) == sum(float(call.cost or 0) for call in report.calls)
    assert value("granted_thinking_tokens_sum", model=model, kind="step") == sum(
        call.grant.budget.thinking or 0 for call in report.calls if call.grant and call.kind == "step"
    )
    assert value("tasks_open") == 0
    assert value("tasks_total", error="") == 1
    assert b"elastic_agent_call_seconds_bucket" in generate_latest(registry)
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) >= 10


def test_opentelemetry_has_a_span_a_call_under_the_callers_span() -> None:
    """Named and attributed by the conventions; a call that was stopped is an error; a refusal is no span."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.01)
    log = OpenTelemetryLog(tracer_provider=tracers, meter_provider=MeterProvider([reader]))
    with tracers.get_tracer("app").start_as_current_span("agent run") as outer:
        report = work(log, backend)

    found = [span for span in spans.get_finished_spans() if span.name == f"chat {backend.model}"]
    assert len(found) == 4
    calls = {call.number: call for call in report.calls}
    for span in found:
        at: Any = span.attributes
        call = calls[at["elastic_agent.call"]]
        assert span.parent is not None
        assert span.parent.span_id == outer.get_span_context().span_id
        assert at["gen_ai.usage.reasoning.output_tokens"] == call.usage.thinking
        assert at["gen_ai.usage.output_tokens"] == call.usage.metered_output
        assert at["gen_ai.usage.input_tokens"] == call.usage.metered_input
        assert call.grant is not None
        assert at["elastic_agent.granted.thinking"] == call.grant.budget.thinking
        assert at["elastic_agent.reason"] == call.grant.reason
        assert span.status.is_ok == (call.outcome == "answered")
        assert span.end_time is not None
        assert span.start_time is not None
        assert abs((span.end_time - span.start_time) / 1e9 - call.seconds) < 1e-3
    data: Any = reader.get_metrics_data()
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    points = metrics["gen_ai.client.token.usage"].data.data_points
    output = next(p for p in points if p.attributes["gen_ai.token.type"] == "output")
    assert output.sum == sum(call.usage.metered_output for call in report.calls)
    assert metrics["gen_ai.client.operation.duration"].data.data_points
    assert metrics["elastic_agent.refusals"].data.data_points[0].value == 1
    assert metrics["elastic_agent.task_refusals"].data.data_points[0].value == 1
