"""What the latest calls of a kind were like, and how far the curves are off."""

from __future__ import annotations

import pytest

from elastic_agent.scheduler.estimates.call_stats import UsageStats


def test_averages_follow() -> None:
    """The next call of a kind is taken to be like the latest."""
    usage_stats = UsageStats()
    assert usage_stats.get("step") is None
    for _ in range(3):
        usage_stats.record("step", 100, 10)
    first = usage_stats.get("step")
    assert first is not None
    assert (first.prompt, first.solution) == (100, 10)
    for i in range(200):
        usage_stats.record("step", 200, 30 + 10 * (i % 2))
    usage = usage_stats.get("step")
    assert usage is not None
    assert usage.prompt == pytest.approx(200, abs=1)
    assert usage.solution == pytest.approx(35, abs=1)


def test_curves_that_are_off_are_corrected() -> None:
    """By what was seen, and never by more than a sane factor."""
    usage_stats = UsageStats()
    assert usage_stats.bias == 1
    for _ in range(60):
        usage_stats.record("step", 100, 45, expected=30)
    assert usage_stats.bias == pytest.approx(1.5, abs=0.1)
    for _ in range(100):
        usage_stats.record("step", 100, 30, expected=30)
    assert usage_stats.bias == pytest.approx(1, abs=0.1)
    for _ in range(100):
        usage_stats.record("step", 100, 900, expected=30)
    assert usage_stats.bias == 2.5
