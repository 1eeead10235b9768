"""Deadlines as moments: what is kept after thinking, and how a slow-down moves it."""

from __future__ import annotations

import pytest

from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.scheduler.latency.model import Latency, Speed
from elastic_agent.scheduler.latency.slack import SAFETY, CallWindow, RemainingWork, Timing
from elastic_agent.scheduler.runtime.deadline_controller import DeadlineController

FAST = Speed(ttft=0.1, tpot=0.01, usual_ttft=0.1, usual_tpot=0.01)
SLOW = Speed(ttft=1.0, tpot=0.1, usual_ttft=0.1, usual_tpot=0.01)


def test_thinking_leaves_time_for_all_that_follows() -> None:
    """Solution, floors of the calls to come and the final answer, at the upper quantiles."""
    after = RemainingWork(solution=100, others=2, other_solution=50, final=60)
    plan = 4 * 0.1 + (100 + 100 + 60) * 0.01 + SAFETY
    assert Timing(slowdown=1).think_until(CallWindow(0, 100, 100), after, FAST) == pytest.approx(100 - plan)


def test_a_cushion_for_a_slow_down_within_its_share() -> None:
    """Ten times the time for the answer, where a third of the window holds it; else a third."""
    after = RemainingWork(solution=100)
    assert Timing().think_until(CallWindow(0, 100, 100), after, FAST) == pytest.approx(100 - 1 - 10 - SAFETY)
    assert Timing().think_until(CallWindow(0, 9, 9), after, FAST) == pytest.approx(9 - 3)
    assert Timing().think_until(CallWindow(0, 9, 24), after, FAST) == pytest.approx(9 - 8)
    assert Timing().think_until(CallWindow(0, 2, 2), after, FAST) == pytest.approx(2 - 0.1 - 1 - SAFETY)


def test_what_has_slowed_down_is_not_counted_twice() -> None:
    """At the slow pace the cushion is the plan."""
    after = RemainingWork(solution=100)
    assert Timing().think_until(CallWindow(0, 100, 100), after, SLOW) == pytest.approx(100 - 1 - 10 - SAFETY)


def test_unknown_speed_takes_half_of_the_window() -> None:
    """And leaves equal parts to calls that follow."""
    assert Timing().think_until(CallWindow(10, 20, 10), RemainingWork(100), None) == 15
    assert (
        Timing().think_until(CallWindow(10, 22, 12), RemainingWork(100, others=1, other_solution=10), None)
        == 14
    )


def test_the_pilot_moves_the_cut_forward_when_tokens_slow_down() -> None:
    """A few slow tokens are enough; the moment never stands still until it is too late."""
    latency = Latency()
    pilot = DeadlineController(latency, Timing(), RemainingWork(20), 0.0, lambda: 10.0, 10.0)
    assert pilot.control.think_until == 5.0
    now = 0.1
    pilot.on_tokens(Segment.THINKING, 1, now)
    for _ in range(20):
        now += 0.01
        pilot.on_tokens(Segment.THINKING, 1, now)
    fast = pilot.control.think_until
    assert fast == pytest.approx(10 - 1 - 20 * 0.1, abs=0.2)
    for _ in range(3):
        now += 0.3
        pilot.on_tokens(Segment.THINKING, 1, now)
    assert pilot.control.think_until is not None
    assert pilot.control.think_until < 10 - 20 * 0.25


def test_a_solution_keeps_its_part_of_the_window() -> None:
    """However slow the upstream looks, the final answer's time takes at most a third of it."""
    after, stuck = RemainingWork(solution=20, final=100), Speed(ttft=1, tpot=1, usual_ttft=1, usual_tpot=0.01)
    assert Timing().answer_until(CallWindow(0, 9, 9), after, stuck) == 6
    assert Timing().answer_until(CallWindow(0, 9, 9), after, FAST) == pytest.approx(9 - 1.1 - SAFETY)


def test_a_call_without_a_deadline_only_teaches() -> None:
    """No moment is set."""
    latency = Latency()
    pilot = DeadlineController(latency, Timing(), RemainingWork(20), 0.0)
    pilot.on_tokens(Segment.THINKING, 1, 0.5)
    pilot.on_tokens(Segment.THINKING, 1, 0.6)
    assert pilot.control.think_until is None
    speed = latency.speed()
    assert speed is not None
    assert (speed.ttft, speed.tpot) == (0.5, pytest.approx(0.1))


def test_each_pass_has_its_first_token() -> None:
    """The second pass's wait is TTFT again, not a slow token."""
    latency = Latency()
    pilot = DeadlineController(latency, Timing(), RemainingWork(20), 0.0)
    for segment, now in [
        (Segment.THINKING, 0.5),
        (Segment.THINKING, 0.51),
        (Segment.SOLUTION, 0.91),
        (Segment.SOLUTION, 0.92),
    ]:
        pilot.on_tokens(segment, 1, now)
    speed = latency.speed()
    assert speed is not None
    assert speed.ttft == pytest.approx(0.5)
    assert speed.tpot == pytest.approx(0.01)


def test_stop_ends_a_call_for_good() -> None:
    """Tokens that still come move nothing."""
    pilot = DeadlineController(Latency(), Timing(), RemainingWork(20), 3.0, lambda: 10.0, 10.0)
    pilot.stop()
    pilot.on_tokens(Segment.THINKING, 1, 3.5)
    assert pilot.control.answer_until == 3.0
