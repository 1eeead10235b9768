"""The words that tell a model what is left: rounding, units, own words, and where they stand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.errors import InvalidValueError
from elastic_agent.prompts.told_budget import behind, budget_words, check_tell


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({"tokens": 812}, "(about 810 tokens left)"),
        ({"tokens": 99}, "(about 99 tokens left)"),
        ({"tokens": 0}, "(about 0 tokens left)"),
        ({"tokens": 1_299_999}, "(about 1200000 tokens left)"),
        ({"usd": Decimal("0.01299")}, "(about $0.012 left)"),
        ({"usd": Decimal("129.9")}, "(about $120 left)"),
        ({"usd": Decimal("0.000000001")}, "(about $0.000000001 left)"),
        ({"usd": Decimal(0)}, "(about $0 left)"),
        ({"seconds": 12.99}, "(about 12 seconds left)"),
        ({"tokens": 812, "seconds": 754.2}, "(about 810 tokens and 750 seconds left)"),
        (
            {"tokens": 5, "usd": Decimal(2), "seconds": 3},
            "(about 5 tokens, $2 and 3 seconds left)",
        ),
        ({}, ""),
    ],
)
def test_the_standard_words(left: dict[str, Any], words: str) -> None:
    """Two significant digits, rounded down; a unit without a cap isn't named; a final answer is asked for."""
    assert budget_words(True, **left) == words
    assert budget_words(False, **left) == ""
    final = budget_words(True, **left, final=True)
    assert final == (f"{words[:-1]}; final answer now)" if words else "(final answer now)")


@given(st.integers(0, 10**15))
def test_no_more_is_told_than_is_left(tokens: int) -> None:
    """And at most a tenth less."""
    told = int(budget_words("{tokens}", tokens=tokens))
    assert told <= tokens < told * 1.1 + 1
    assert int(budget_words("{seconds}", seconds=float(tokens))) == told


def test_own_words() -> None:
    """Units in braces; one without a cap has no limit. They say nothing of the final answer."""
    assert budget_words("[{tokens} / {usd} / {seconds}]", tokens=1234) == "[1200 / unlimited / unlimited]"
    assert budget_words("be {{brief}}", tokens=1, final=True) == "be {brief}"


@pytest.mark.parametrize(
    "wrong", [None, 1, "", " ", "{thinking}", "{}", "{tokens!r}", "{tokens:>9}", "{tokens.real}", "{", "}"]
)
def test_what_can_not_be_told_is_refused(wrong: object) -> None:
    """When it is set. A grant can't be told: the words are a part of what is granted."""
    with pytest.raises(InvalidValueError, match=r"^tell.* \{tokens\}, \{usd\}, \{seconds\}"):
        check_tell(wrong)


def test_words_stand_behind_the_last_message_alone() -> None:
    """And what was there is not changed."""
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    called = [*asked, {"role": "tool", "content": "", "tool_call_id": "1"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert behind("2 + 2?", "(w)") == "2 + 2? (w)"
    assert behind(called, "(w)") == [*asked, {"role": "tool", "content": "(w)", "tool_call_id": "1"}]
    assert behind(parts, "(w)")[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": " (w)"},
    ]
    assert called[-1]["content"] == ""
    assert len(parts[0]["content"]) == 1
    for unchanged in (asked, [1, 2, 3], [], ""):
        assert behind(unchanged, "(w)") is unchanged  # type: ignore[type-var]
    assert behind(called, "") is called
