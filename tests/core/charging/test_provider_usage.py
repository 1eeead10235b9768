"""Usage as providers tell it: a call told in any way is the same numbers; what says nothing is None."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.charging.provider_usage import (
    ReportedUsage,
    UsageReports,
    charged,
    read_usage,
    token_count,
)
from elastic_agent.usage import Usage, worst_case

WORST = worst_case(100, 0, 0, 50)


def told(input: Any, output: Any, total: Any = None, **details: dict[str, Any]) -> dict[str, Any]:
    """A report in LangChain's words."""
    return {"input_tokens": input, "output_tokens": output, "total_tokens": total, **details}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((n, n) for n in (0, 1, 10**12)),
        (2.0, 2),
        (2.1, 3),
        *((n, None) for n in (None, True, False, -1, -0.5, "7", "", "many", [7], {}, math.nan, math.inf)),
        *((n, None) for n in (10**12 + 1, 10**400, 1e300)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_numbers(value: Any, number: int | None) -> None:
    """A count is a number that is finite, not negative and not absurd; a fraction is rounded up."""
    assert token_count(value) == number


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (told(12, 7, 19), ReportedUsage(12, 7)),
        ({"prompt_tokens": 12, "completion_tokens": 7}, ReportedUsage(12, 7)),
        ({"inputTokens": 12, "outputTokens": 7, "totalTokens": 19}, ReportedUsage(12, 7)),
        # Says nothing, in part or whole
        *((usage, ReportedUsage()) for usage in (None, {}, "12", [], told(None, None, 19), told(0, 0, 0))),
        (told(None, 7, 7), ReportedUsage(None, 7)),
        (told(0, 7, 7), ReportedUsage(None, 7)),
        (told(-12, 7), ReportedUsage(None, 7)),
        (told("12", 7), ReportedUsage(None, 7)),
        (told(12, None), ReportedUsage(12, None)),
        (told(12, 0, 12), ReportedUsage(12, None)),
        (told(12, math.nan), ReportedUsage(12, None)),
        # The sum tells what a part does not
        (told(None, 7, 19), ReportedUsage(12, 7)),
        (told(12, None, 19), ReportedUsage(12, 7)),
        (told(12, 7, 25), ReportedUsage(12, 13)),
        # Thinking in the output, and beside it
        (told(12, 7, 19, output_token_details={"reasoning": 5}), ReportedUsage(12, 7, 5)),
        (told(12, 7, 24, output_token_details={"reasoning": 5}), ReportedUsage(12, 12, 5)),
        (told(12, 2, None, output_token_details={"reasoning": 5}), ReportedUsage(12, 7, 5)),
        (told(12, 7, 19, output_token_details={"reasoning": None}), ReportedUsage(12, 7)),
        (told(12, 7, 19, output_token_details={"priority_reasoning": 5}), ReportedUsage(12, 7, 5)),
        (
            {"prompt_token_count": 12, "candidates_token_count": 2, "thoughts_token_count": 5},
            ReportedUsage(12, 7, 5),
        ),
        # A cache in the input, and beside it
        (
            told(12, 7, 19, input_token_details={"cache_read": 8, "cache_creation": 2}),
            ReportedUsage(12, 7, 0, 8, 2),
        ),
        (
            told(2, 7, 19, input_token_details={"cache_read": 8, "cache_creation": 2}),
            ReportedUsage(12, 7, 0, 8, 2),
        ),
        (told(10, 7, 25, input_token_details={"cache_read": 8}), ReportedUsage(18, 7, 0, 8)),
        (
            told(9, 7, 16, input_token_details={"cache_creation": 0, "ephemeral_5m_input_tokens": 9}),
            ReportedUsage(9, 7, 0, 0, 9),
        ),
        (
            {"input_tokens": 2, "output_tokens": 7, "cache_read_input_tokens": 8},
            ReportedUsage(10, 7, 0, 8),
        ),
        (
            {"inputTokens": 2, "outputTokens": 7, "cacheReadInputTokens": 8, "cacheWriteInputTokens": 1},
            ReportedUsage(11, 7, 0, 8, 1),
        ),
    ],
)
def test_one_report(usage: Any, expected: ReportedUsage) -> None:
    """Each way of telling twelve tokens in and seven out."""
    assert read_usage(usage) == expected


@pytest.mark.parametrize(
    ("usages", "input", "output"),
    [
        ([told(12, 7)], 12, 7),
        # What came so far
        ([told(12, n) for n in range(1, 301)], 12, 300),
        ([*[told(12, n) for n in range(1, 8)], told(12, 7)], 12, 7),
        ([told(12, 0), told(12, 3), told(12, 7)], 12, 7),
        ([told(12, 7), told(12, 7)], 12, 7),  # the same, sent twice
        ([told(None, n) for n in (1, 2, 2, 7)], None, 7),
        ([told(None, 3), told(None, 4), told(12, 7)], 12, 7),  # the account at the end
        # Parts that add up
        ([told(12, 0), told(0, 7)], 12, 7),
        ([told(12, 1), told(0, 1), told(0, 5)], 12, 7),
        ([told(0, 1), told(0, 1), told(0, 5)], None, 5),
        ([told(0, 3), told(12, 4)], 12, 4),
        ([told(0, 4), told(12, 3)], 12, 7),
        ([told(12, 3), told(12, 1), told(12, 3)], 12, 7),
        # Nothing
        ([], None, None),
        ([None, {}, told(0, 0)], None, None),
        ([told(12, None)] * 3, 12, None),
    ],
)
def test_a_stream_of_reports(usages: list[Any], input: int | None, output: int | None) -> None:
    """UsageReports that tell what came so far are not added up: 300 tokens had been 45,450."""
    reports = UsageReports()
    for usage in usages:
        reports.add(usage)
    assert (reports.total().input, reports.total().output) == (input, output)


@given(st.integers(1, 999), st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_a_stream_told_in_any_way_is_the_same(prompt: int, pieces: list[int]) -> None:
    """Whatever the pieces: what came so far with each, once more at the end, parts, or the end alone."""
    sofar = list(accumulate(pieces))
    parts = [told(prompt if n == 0 else 0, piece) for n, piece in enumerate(pieces)]
    for usages in (
        [told(prompt, n, prompt + n) for n in sofar],
        [told(prompt, n, prompt + n) for n in [*sofar, sofar[-1]]],
        [told(prompt, 0, prompt), *(told(prompt, n) for n in sofar)],
        parts,
        [told(prompt, 0, prompt), *(told(0, piece, piece) for piece in pieces)],
        [told(prompt, sum(pieces))],
    ):
        reports = UsageReports()
        for usage in usages:
            reports.add(usage)
        assert reports.total() == ReportedUsage(prompt, sum(pieces))


def test_a_usage_that_the_answer_contradicts() -> None:
    """More words than its tokens can hold: that was the usage of something else."""
    reports = UsageReports()
    reports.add(told(12, 3))
    for letter in "six words are in here, no":
        reports.add_text(letter)
    assert reports.total() == ReportedUsage(12, 3)
    reports.add_text("")
    reports.add_text(" seven ")
    assert reports.total() == ReportedUsage(12, None)


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        (
            ReportedUsage(12, 7, 5, 8),
            Usage(prompt=12, thinking=5, solution=2, input=12, cached=8, prompt_cached=8, passes=1),
        ),
        (
            ReportedUsage(12, 7, 0, 3, 4),
            Usage(prompt=12, solution=7, input=12, cached=3, prompt_cached=3, cache_written=4, passes=1),
        ),
        (ReportedUsage(None, 7), Usage(prompt=100, solution=7, input=100, cache_written=100, passes=1)),
        (ReportedUsage(12, None), Usage(prompt=12, unknown=50, input=12, passes=1)),
        (ReportedUsage(), Usage(prompt=100, unknown=50, input=100, cache_written=100, passes=1)),
    ],
)
def test_what_is_charged(report: ReportedUsage, usage: Usage) -> None:
    """Law 2: what was held, for each part that nobody tells."""
    assert charged(report, WORST) == usage
