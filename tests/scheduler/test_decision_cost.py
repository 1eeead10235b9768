"""What a decision costs, counted in function calls: a clock would tell about the machine."""

from __future__ import annotations

from benchmarks.decision_cost import Office, function_calls


def test_a_decision_is_cheap_however_many_tasks_live() -> None:
    """Some 120 Python functions with one live task, and as many with a thousand: nothing scans the tasks."""
    alone, crowded = (function_calls(Office(tasks), 100) for tasks in (1, 1000))
    assert alone < 128
    assert crowded < 1.05 * alone


def test_nothing_is_told_where_nobody_listens() -> None:
    """Reasons, numbers and events are made for a log, or when somebody asks for them."""
    heard: list[object] = []
    silent, told = (function_calls(Office(1, log), 20) for log in (None, heard.append))
    assert heard
    assert silent + 30 < told
