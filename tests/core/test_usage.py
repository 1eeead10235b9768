"""The one token arithmetic."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.usage import Usage, worst_case

usages = st.builds(Usage, **{f.name: st.integers(0, 1000) for f in fields(Usage)})


@given(usages, usages)
def test_adding_adds_everything(a: Usage, b: Usage) -> None:
    """Law 1 (conservation): no bucket and no derived count is lost or counted twice in a sum."""
    total = a + b
    for name in (*(f.name for f in fields(Usage)), "generated", "output", "metered_input", "metered_output"):
        assert getattr(total, name) == getattr(a, name) + getattr(b, name)
    assert a + Usage() == a


def test_the_meter_sees_a_close_that_the_engine_wrote() -> None:
    """Law 2: in one pass the engine writes the close itself, as output."""
    one = Usage(prompt=9, thinking=5, close=1, forced=1, solution=3, input=9, passes=1, written=1)
    assert (one.generated, one.metered_output, one.metered_input) == (9, 9, 9)


def test_the_meter_never_sees_the_forced_close() -> None:
    """Law 6: a forced close counts against the cap and is shown, and the upstream bills it as input only."""
    usage = Usage(prompt=10, thinking=5, close=1, forced=1, solution=3, input=26, passes=2)
    assert usage.generated == usage.output == 9
    assert usage.metered_output == 8
    assert usage.metered_input == 26


def test_what_may_have_been_served_is_charged() -> None:
    """Law 8 (unknown fails closed): unknown and discarded tokens count, but are no answer."""
    usage = Usage(thinking=5, discarded=2, unknown=7)
    assert usage.generated == usage.metered_output == 14
    assert usage.output == 5


def test_worst_case_by_hand() -> None:
    """Two passes read the prompt twice; t=0 has one pass."""
    worst = worst_case(100, 20, 1, 30)
    assert (worst.metered_input, worst.metered_output, worst.generated) == (100 + 121, 50, 51)
    worst = worst_case(100, 0, 2, 30)
    assert (worst.metered_input, worst.metered_output, worst.passes) == (102, 30, 1)
