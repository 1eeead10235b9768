"""Budgets and caps: what is refused, and money that never loosens."""

from __future__ import annotations

import math
import pickle
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.budget import NANO, Budget, Caps, to_nanodollars, to_usd
from elastic_agent.errors import InvalidBudgetError, InvalidCapsError
from elastic_agent.validation import MOST_USD


@pytest.mark.parametrize(
    ("thinking", "solution"),
    [(-1, 5), (1.5, 5), ("3.0", 5), (True, 5), (5, 0), (5, -3), (5, 2.0), (5, None), (5, True)],
)
def test_impossible_budgets_are_refused(thinking: object, solution: object) -> None:
    """A limit that no call can obey is an error when it is made, not in the middle of a call."""
    with pytest.raises(InvalidBudgetError):
        Budget(thinking, solution)  # type: ignore[arg-type]


def test_edge_budgets_are_fine() -> None:
    """t=0, t unlimited, s=1."""
    assert Budget(0, 1).thinking == 0
    assert Budget(None, 1).thinking is None


@given(st.none() | st.integers(0, 300), st.integers(1, 100), st.integers(0, 300), st.integers(1, 10))
def test_bounded_fits_and_takes_no_more_than_it_must(
    thinking: int | None, solution: int, room: int, close: int
) -> None:
    """Law 3: a bounded budget fits into the context with its close; what fits already is left alone."""
    budget = Budget(thinking, solution)
    if close + solution > room:
        with pytest.raises(InvalidBudgetError, match="shorten the prompt"):
            budget.bounded(room, close)
        return
    bounded = budget.bounded(room, close)
    assert bounded.thinking is not None
    assert bounded.solution == solution
    assert bounded.thinking + close + solution <= room
    assert bounded.thinking == thinking or bounded.thinking + close + solution == room


@given(st.decimals(0, MOST_USD, allow_nan=False, allow_infinity=False))
def test_money_is_rounded_down_only(usd: Decimal) -> None:
    """Rounding never loosens a cap, however many digits it has."""
    nano = to_nanodollars(usd)
    assert Fraction(nano, NANO) <= Fraction(usd) < Fraction(nano + 1, NANO)


def test_money_by_hand() -> None:
    """A float is read as it is written; 28 digits are no limit."""
    assert to_nanodollars(0.1) == 100_000_000
    assert to_nanodollars("0.05") == 50_000_000
    assert to_nanodollars("0." + "9" * 32) == NANO - 1
    assert to_usd(1) == Decimal("0.000000001")
    assert to_usd(to_nanodollars("12345.678901234")) == Decimal("12345.678901234")


@pytest.mark.parametrize("usd", ["", "five", "nan", "inf", -math.inf, True, "1e99", [1]])
def test_money_that_is_none(usd: object) -> None:
    """What isn't an amount of money is an error that names it."""
    with pytest.raises(InvalidCapsError):
        to_nanodollars(usd)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "caps",
    [
        {},
        {"usd": 0},
        {"usd": -1},
        {"usd": "1e-12"},
        {"seconds": 0},
        {"seconds": -1},
        {"seconds": math.nan},
        {"seconds": math.inf},
        {"seconds": True},
        {"seconds": "3s"},
        {"seconds": 10**9},
        {"usd": 10**7},
        {"tokens": 10**13},
        {"tokens": 0},
        {"tokens": 1.5},
        {"tokens": True},
        {"usd": 1, "tokens": -5},
    ],
)
def test_impossible_caps_are_refused(caps: dict[str, object]) -> None:
    """Bad input: negative, zero, infinite or missing caps are refused when they are made."""
    with pytest.raises(InvalidCapsError):
        Caps(**caps)  # type: ignore[arg-type]


def test_text_of_a_number_is_the_number() -> None:
    """Headers, environments and configs hold text: all three units and both segments take it alike."""
    assert Caps(usd="0.05", seconds="20", tokens="100") == Caps(usd="0.05", seconds=20, tokens=100)  # type: ignore[arg-type]
    assert Budget("3", "5") == Budget(3, 5)  # type: ignore[arg-type]


def test_caps_are_values() -> None:
    """Any subset of the three; equal, hashable, picklable."""
    caps = Caps(usd="0.05", seconds=20)
    assert caps.nanodollars == 50_000_000
    assert Caps(tokens=5).nanodollars is None
    assert pickle.loads(pickle.dumps(caps)) == caps
    assert len({caps, Caps(usd="0.05", seconds=20)}) == 1
