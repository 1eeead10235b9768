"""What is still to come: declared, nested, or assumed."""

from __future__ import annotations

from collections import Counter

import pytest

from elastic_agent.scheduler.estimates.workload import FIRST_GUESS, LAST_GUESS, Forecast


def test_declared_calls_are_taken_off_as_they_arrive() -> None:
    """Each call of a kind consumes one; others that wait count as to come."""
    forecast = Forecast()
    forecast.expect({"step": 3, "final": 1})
    forecast.arrived("step")
    assert forecast.view().to_come("step") == Counter({"step": 2, "final": 1})
    forecast.arrived("step")
    assert forecast.view().to_come("step") == Counter({"step": 2, "final": 1})
    forecast.left("step")
    forecast.left("step")
    forecast.arrived("other")
    assert forecast.view().to_come("other") == Counter({"step": 1, "final": 1})


def test_a_sub_tasks_final_answer_is_its_own() -> None:
    """It does not count as that of the task around it."""
    outer = Forecast()
    outer.expect({"final": 1, "step": 1})
    inner = Forecast(outer)
    assert not inner.arrived("final")
    assert outer.own == {"final": 1, "step": 1}
    inner.arrived("step")
    assert outer.own == {"final": 1}
    assert outer.arrived("final")


def test_nested_declarations_are_not_counted_twice() -> None:
    """A level counts its own or those below, whichever is more; a closed child takes its own along."""
    root = Forecast()
    root.expect({"step": 4})
    a, b = Forecast(root), Forecast(root)
    a.expect({"step": 2})
    b.expect({"step": 3})
    root.arrived("x")
    assert root.view().to_come("x") == Counter({"step": 5})
    a.arrived("step")
    assert a.view().to_come("step") == Counter({"step": 1})
    assert root.view().to_come("step") == Counter({"x": 1, "step": 4})
    b.close()
    assert root.view().to_come("step")["step"] == 3


def test_a_task_that_says_nothing() -> None:
    """Three more at first, then as many as were finished, bounded; waiting ones are among them."""
    forecast = Forecast()
    forecast.arrived("call")
    assert forecast.view().to_come("call") == Counter({"call": FIRST_GUESS})
    for _ in range(9):
        forecast.arrived("call")
    assert forecast.view().to_come("call") == Counter({"call": 9})
    for _ in range(10):
        forecast.left("call")
        forecast.started("call")
        forecast.ended()
    forecast.arrived("call")
    assert forecast.view().to_come("call") == Counter({"call": 10})
    forecast.finished = 1000
    assert forecast.view().to_come("call") == Counter({"call": LAST_GUESS})


@pytest.mark.parametrize("bad", [-1, 1.5])
def test_bad_counts(bad: float) -> None:
    """Named by kind."""
    with pytest.raises(ValueError, match=r"expect\['step'\] must be"):
        Forecast().expect({"step": bad})  # type: ignore[dict-item]
