"""Numbers from outside: one check, the same everywhere, before any arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from elastic_agent.budget import Caps, to_nanodollars
from elastic_agent.errors import InvalidCapsError, InvalidValueError
from elastic_agent.validation import MOST_CALL_TOKENS, integer, money, real, shown

NO_NUMBER = [
    None,
    True,
    np.True_,
    "",
    " ",
    "five",
    "1,000",
    "1_000",
    "0x10",
    "3 4",
    "\u0663",  # a digit of another script
    "nan",
    "inf",
    "-Infinity",
    "9" * 41,
    "1e9999",
    "1e-999999999",
    math.nan,
    math.inf,
    Decimal("nan"),
    Decimal("1e999999"),
    Decimal("1e-999999"),
    10**5000,
    -(10**5000),
    b"3",
    [1],
    {},
    1j,
]
"""What no check takes."""


@pytest.mark.parametrize("check", [integer, real, money])
@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda value: shown(value)[:30])
def test_what_is_no_number_is_refused(check: Callable[[str, object], object], value: object) -> None:
    """The message names the argument, what is allowed, and the value, in at most 300 characters."""
    with pytest.raises(InvalidValueError, match=r"^limit must be ") as error:
        check("limit", value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", [3.0, Decimal(3), "3.0", "3e2", Fraction(3)])
def test_a_whole_number_is_an_int(value: object) -> None:
    """A float stays a float: who writes 3.0 tokens may mean something else."""
    with pytest.raises(InvalidValueError):
        integer("limit", value)


def test_numbers_and_their_text() -> None:
    """Ints, floats, numpy's and text."""
    assert integer("n", 7) == integer("n", "7") == integer("n", " 7 ") == integer("n", np.int64(7)) == 7
    assert real("x", 2) == real("x", "2") == real("x", np.float32(2)) == real("x", Fraction(2)) == 2.0
    assert money("usd", 0.1) == money("usd", "0.1") == money("usd", Decimal("0.1")) == Decimal("0.1")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-1, "at least 0 tokens, got -1"),
        ("-1", "at least 0 tokens, got -1"),
        (MOST_CALL_TOKENS + 1, "at most 2147483647 tokens, got 2147483648"),
        (99999999999999999999999, "at most 2147483647 tokens, got 99999999999999999999999"),
    ],
)
def test_a_whole_number_out_of_range(value: object, says: str) -> None:
    """The message names the bound. Zero is in range unless `least` says otherwise."""
    with pytest.raises(InvalidValueError, match=says):
        integer("limit", value)
    assert integer("limit", 0) == 0
    with pytest.raises(InvalidValueError):
        integer("limit", 0, least=1)


@pytest.mark.parametrize(
    ("value", "says"),
    [*((low, "more than 0") for low in (0, -0.0, "0", "1e-400", -1)), (1e300, "at most 100")],
)
def test_a_real_number_out_of_range(value: object, says: str) -> None:
    """More than zero is more than zero, also where no float is that small."""
    with pytest.raises(InvalidValueError, match=says):
        real("seconds", value, above=True, most=100)


@pytest.mark.parametrize(
    "text", ["1e-999999999", "1e999999999", "0e999999999", "1" * 5000, "1e" + "9" * 4000]
)
def test_a_huge_exponent_is_refused_before_arithmetic(text: str) -> None:
    """One such cap kept a gateway's loop busy for ever: the text is refused by its shape."""
    for value in (text, Decimal(text) if len(text) < 20 else text):
        if value == 0:  # Decimal("0e999999999") is 0
            continue
        with pytest.raises(InvalidCapsError):
            to_nanodollars(value)
        with pytest.raises(InvalidCapsError):
            Caps(usd=value)
