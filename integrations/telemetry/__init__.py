"""The scheduler's events in other people's dashboards. Each is a function to pass as `log=`:

    BudgetScheduler(backend, log=["run.jsonl", PrometheusLog()])
    BudgetScheduler(backend, log=OpenTelemetryLog())

prometheus      counters, gauges and histograms of prometheus_client
opentelemetry   a span a call and the GenAI metrics, through the OpenTelemetry API
"""
