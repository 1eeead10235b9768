"""Which deadlines can be kept, and when running calls have to make room."""

from __future__ import annotations

from elastic_agent.scheduler.accounts import INFINITY
from elastic_agent.scheduler.promises import Job, Stage, endings, latest


def job(end: float, *stages: tuple[int, float], ready: float = 0.0, spare: float = 0.0) -> Job:
    return Job(end, ready, tuple(Stage(*stage) for stage in stages), spare)


def test_slots_serve_by_deadline() -> None:
    """The later deadline waits for the earlier, in whichever order they were asked for."""
    assert endings([job(20, (1, 4)), job(10, (1, 3))], [0.0]) == [7, 3]
    assert endings([job(20, (1, 4)), job(10, (1, 3))], [0.0, 1.0]) == [5, 3]


def test_without_a_limit_nobody_waits() -> None:
    """Each ends after its own stages; parallel calls count once."""
    assert endings([job(9, (4, 1), (1, 2)), job(9, (1, 5), ready=2.0)], None) == [3, 7]


def test_parallel_calls_take_their_slots_and_the_next_stage_waits_for_all() -> None:
    """Three calls on two slots are two waves."""
    assert endings([job(9, (3, 1), (1, 2))], [0.0, 0.0]) == [4]


def test_a_long_answer_counts_for_its_own_task_only() -> None:
    """Others wait for what is usual."""
    assert endings([job(5, (1, 1), spare=2), job(9, (1, 1))], [0.0]) == [3, 2]


def test_room_is_made_as_late_as_possible() -> None:
    """From the last one back: a call that must have ended before the next starts moves forward."""
    assert latest([(10, 3)], 2) == [10, INFINITY]
    assert latest([(10, 3), (10, 3)], 1) == [7]
    assert latest([(10, 3), (11, 3), (12, 3)], 2) == [9, 11]
    assert latest([], 1) == [INFINITY]
