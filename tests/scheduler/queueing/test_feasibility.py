"""Which deadlines can be kept, and when running calls have to make room."""

from __future__ import annotations

from elastic_agent.scheduler.queueing.feasibility import Job, Stage, latest_free_times, merged, serve


def job(*stages: tuple[int, float], ready: float = 0.0, spare: float = 0.0) -> Job:
    return Job(ready, merged(Stage(*stage) for stage in stages), spare)


def test_slots_serve_one_after_the_other() -> None:
    """Who comes later waits for a slot; what is left of the slots is known."""
    assert list(serve([job((1, 3)), job((1, 4))], [0.0])) == [3, 7]
    slots = [0.0, 1.0]
    assert list(serve([job((1, 3)), job((1, 4))], slots)) == [3, 5]
    assert sorted(slots) == [3, 5]
    assert list(serve([job((1, 1), ready=9.0)], slots)) == [10]


def test_calls_one_after_the_other_keep_their_slot() -> None:
    """As one stage; side by side they don't."""
    assert merged([Stage(1, 2), Stage(1, 3), Stage(2, 1), Stage(1, 1)]) == ((1, 5), (2, 1), (1, 1))
    assert job((1, 2), (1, 3), spare=0.5).alone == 5.5


def test_parallel_calls_take_their_slots_and_the_next_stage_waits_for_all() -> None:
    """Three calls on two slots are two waves."""
    assert list(serve([job((3, 1), (1, 2))], [0.0, 0.0])) == [4]


def test_a_long_answer_counts_for_its_own_task_only() -> None:
    """Others wait for what is usual."""
    assert list(serve([job((1, 1), spare=2), job((1, 1))], [0.0])) == [3, 2]


def test_room_is_made_as_late_as_possible() -> None:
    """From the last one back: a call that must have ended before the next starts moves forward."""
    assert latest_free_times([(10, 3)], 2) in ([[10], []], [[], [10]])
    assert latest_free_times([(10, 3), (10, 3)], 1) == [[10, 7]]
    assert sorted(latest_free_times([(10, 3), (11, 3), (12, 3)], 2)) == [[11], [12, 9]]
    assert latest_free_times([], 1) == [[]]
