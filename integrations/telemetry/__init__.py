"""The scheduler's events in dashboards. Each class makes a function to pass as `log=`:

    BudgetScheduler(backend, log=["run.jsonl", PrometheusLog()])
    BudgetScheduler(backend, log=OpenTelemetryLog())

prometheus      counters, gauges and histograms of prometheus_client
opentelemetry   a span for each call and the GenAI metrics, through the OpenTelemetry API
"""
