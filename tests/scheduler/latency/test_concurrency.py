"""Speed by load: more calls never look faster, unknown loads are scaled, spikes are slowdowns and pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elastic_agent.scheduler.latency.concurrency import GAP, Levels, SpeedByLoad, level_of
from elastic_agent.scheduler.latency.model import Latency
from elastic_agent.scheduler.latency.prefill import First


def feed(latency: Latency, load: int, each: float, blocks: int = 20) -> None:
    latency.load = load
    latency.first(First(10 * each))
    for _ in range(blocks):
        latency.pace(each)
        latency.block(8, 8 * each)


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.001, 1)), min_size=1), st.floats(0, 1))
def test_more_load_is_never_faster(samples: list[tuple[int, float]], quantile: float) -> None:
    """Whatever was seen, in whichever order."""
    levels = Levels()
    for i, (load, seconds) in enumerate(samples):
        levels.add(load, seconds, i * GAP)
    found = [levels.at(load, quantile) for load in range(1, 80)]
    values = [value for value in found if value is not None]
    assert len(values) == len(found)
    assert all(a <= b + 1e-12 for a, b in pairwise(values))


def test_a_load_nobody_saw_is_in_proportion() -> None:
    """Up to the busier neighbour's time, and beyond the busiest without a limit."""
    levels = Levels()
    levels.add(2, 0.01, 0)
    assert levels.at(16, 0.9) == 0.01  # one level says nothing of others
    levels.add(8, 0.02, 0)
    assert levels.at(3, 0.9) == pytest.approx(0.015)
    assert levels.at(6, 0.9) == 0.02
    assert levels.at(16, 0.9) == pytest.approx(0.04)
    assert levels.at(1, 0.9) == 0.01


def test_levels_are_exact_while_few_and_a_fifth_wide_above() -> None:
    """So that forty calls need no forty levels."""
    assert [level_of(n) for n in (0, 1, 7, 8, 9, 10, 11, 23)] == [1, 1, 7, 8, 9, 10, 10, 22]


def test_a_latency_predicts_a_load_it_has_left() -> None:
    """The speed of ten calls is known while two run."""
    latency = Latency()
    feed(latency, 10, 0.05)
    feed(latency, 2, 0.01)
    two, ten = latency.at(2), latency.at(10)
    assert two is not None
    assert ten is not None
    assert two.tpot == pytest.approx(0.01)
    assert ten.tpot == pytest.approx(0.05)
    assert ten.ttft == pytest.approx(0.5)


def test_a_spike_counts_at_every_load_and_passes() -> None:
    """Three times slower with two calls: three times slower with ten, until it is over."""
    latency = Latency()
    feed(latency, 10, 0.05)
    feed(latency, 2, 0.01, blocks=2000)
    feed(latency, 2, 0.03, blocks=10)
    ten = latency.at(10)
    assert ten is not None
    assert ten.tpot == pytest.approx(0.15)
    feed(latency, 2, 0.01, blocks=10)
    ten = latency.at(10)
    assert ten is not None
    assert ten.tpot == pytest.approx(0.05)


def test_what_has_become_usual_is_learnt() -> None:
    """A window of busy time later the old speed is forgotten."""
    by_load = SpeedByLoad()
    for each, seconds in ((0.01, 100), (0.04, 150)):
        for _ in range(int(seconds / (8 * each))):
            by_load.block(1, 8, 8 * each)
    assert by_load.tpot.at(1, 0.5) == pytest.approx(0.04)
    assert by_load.slowdown == pytest.approx(1.0)


def test_nothing_is_known_at_first() -> None:
    """No number before there is one."""
    assert Latency().at(3) is None
    assert SpeedByLoad().slowdown == 1.0


def test_a_slowdown_counts_once_at_a_load_that_was_never_seen() -> None:
    """Ten times as slow in mid-run, and more calls than ever: ten times what it will be, not a hundred."""
    speeds = SpeedByLoad()
    for _ in range(40):
        speeds.block(4, 8, 0.08)
    for load in (4,) * 10 + (12,) * 4:
        speeds.block(load, 8, 0.8)
    usual = speeds.tpot.at(12, 0.5)
    assert usual is not None
    assert speeds.slowdown > 5
    assert usual * speeds.slowdown < 0.25  # ten times the 10 ms is 0.1


def test_a_slowdown_counts_once_for_first_tokens_too() -> None:
    """What the upstream says of its cache later holds for the baseline sample as well."""
    latency = Latency()
    for _ in range(40):
        latency.load = 4
        latency.first(First(0.1, 100))
        latency.block(8, 0.08)
    for load in (4,) * 10 + (12,) * 4:
        latency.load = load
        latency.block(8, 0.8)
        first = latency.first(First(1.0, 100))
    latency.pace(0.1)
    assert first.baseline is not None
    latency.record_cached(first, 60)
    assert (first.read, first.baseline.read) == (40, 40)
    there = latency.at(12)
    assert there is not None
    assert 0.5 < there.ttft < 2.5  # ten times the 0.1 s


@pytest.mark.parametrize(
    ("each", "ttft", "tokens", "enough"),
    [
        (lambda n: 0.02, 0.1, 64, 16),  # each brings its own
        (lambda n: 0.01 + 0.0005 * n, 0.1, 64, 16),
        (lambda n: max(0.01, n / 600), 0.1, 400, 5),  # six use it to capacity
        (lambda n: max(0.01, n / 600), 0.1, 64, 6),
        (lambda n: max(0.01, n / 600), 0.5, 16, 12),  # much of the time goes to first tokens
        (lambda n: 0.02 * n, 0.0, 64, 1),
    ],
)
def test_so_many_calls_at_once_are_enough(
    each: Callable[[int], float], ttft: float, tokens: int, enough: int
) -> None:
    """More are only slower: the fewest that bring nearly as many answers; all of them where each helps."""
    speeds = SpeedByLoad()
    assert speeds.enough(16) == 16
    for load in range(1, 17):
        for _ in range(20):
            speeds.first(load, First(ttft, 10))
            for _ in range(tokens // 8):
                speeds.block(load, 8, 8 * each(load))
    assert speeds.enough(16) == enough
    assert speeds.enough(4) <= 4


def test_a_busier_load_than_any_that_was_seen_may_help() -> None:
    """While answers still become more with each call nothing is held back, as little as is known."""
    speeds = SpeedByLoad()
    for load in (1, 2, 3):
        speeds.first(load, First(0.1, 10))
        speeds.block(load, 8, 0.08)
    assert speeds.enough(16) == 16
