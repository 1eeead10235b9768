"""Providers' usage reports as one kind of numbers. No other module reads them.

The reports differ: thinking is counted in the output or beside it, cached input in the input or beside it,
and a stream reports parts that add up or totals so far. A field may be missing, null, negative, a fraction or
text. A number that can't be believed becomes None, and None is charged as what was held (`charged`). A prompt
and an answer have at least one token each, so 0 is not believed either.

    reports = UsageReports()
    reports.add({"input_tokens": 12, "output_tokens": 1})       # one for each report of a stream, in order
    charged(reports.total(), worst_case(prompt, thinking, 0, solution))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..usage import Usage
from ..validation import MOST_TOKENS

_INPUT = ("input_tokens", "prompt_tokens", "inputTokens", "prompt_token_count")
_OUTPUT = ("output_tokens", "completion_tokens", "outputTokens", "candidates_token_count")
_TOTAL = ("total_tokens", "totalTokens", "total_token_count")
_INPUT_DETAILS = ("input_token_details", "prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("output_token_details", "completion_tokens_details", "output_tokens_details")
_CACHED = ("cache_read", "cached_tokens")
_WRITTEN = ("cache_creation", "cache_write_tokens")
_WRITTEN_PARTS = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_THINKING = ("reasoning", "reasoning_tokens")
"""Ends of names: OpenAI's service tiers stand before them ("priority_reasoning")."""
_CACHED_BESIDE = ("cache_read_input_tokens", "cacheReadInputTokens")
_WRITTEN_BESIDE = ("cache_creation_input_tokens", "cacheWriteInputTokens")
"""Anthropic's and Bedrock's own names: not in the input."""
_THINKING_BESIDE = ("thoughts_token_count",)
"""Gemini's own: not in the output."""
WORDS_A_TOKEN = 2
"""An answer with more words than so many for each token was not counted: tokens don't reach across blanks."""


@dataclass(frozen=True, slots=True)
class ReportedUsage:
    """Tokens of one call, as its provider reports them; None where no report can be believed.

    Attributes:
        input: every token that was read, cached input included.
        output: every token that was sampled, thinking included.
        thinking: the part of `output` that was thinking.
        cached: the part of `input` that was in the provider's cache.
        written: the part of `input` that it wrote to its cache.
    """

    input: int | None = None
    output: int | None = None
    thinking: int = 0
    cached: int = 0
    written: int = 0


def token_count(value: object) -> int | None:
    """A provider's number of tokens, fractions rounded up; None for a value that is no such number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return math.ceil(value) if 0 <= value <= MOST_TOKENS else None  # NaN is not


def read_usage(usage: object) -> ReportedUsage:
    """One report by the field names of LangChain, OpenAI, Anthropic, Bedrock or Gemini."""
    if not isinstance(usage, Mapping):
        return ReportedUsage()
    tokens_in, tokens_out, total = (_first(usage, names) for names in (_INPUT, _OUTPUT, _TOTAL))
    inside, outside = dict(_details(usage, _INPUT_DETAILS)), dict(_details(usage, _OUTPUT_DETAILS))
    cached, thinking = _ending(inside, _CACHED), _ending(outside, _THINKING)
    written = max(_ending(inside, _WRITTEN), _ending(inside, _WRITTEN_PARTS))
    if cached + written > tokens_in or (
        cached + written and total == tokens_in + cached + written + tokens_out
    ):
        tokens_in += cached + written
    beside, more = _first(usage, _CACHED_BESIDE), _first(usage, _WRITTEN_BESIDE)
    tokens_in, cached, written = tokens_in + beside + more, cached + beside, written + more
    beside = _first(usage, _THINKING_BESIDE)
    tokens_out, thinking = tokens_out + beside, thinking + beside
    if not beside and (thinking > tokens_out or (thinking and total == tokens_in + tokens_out + thinking)):
        tokens_out += thinking
    if tokens_in and tokens_out:
        tokens_out = max(tokens_out, total - tokens_in)  # more was used than either says: by the dearer price
    elif total > max(tokens_in, tokens_out):
        tokens_in, tokens_out = tokens_in or total - tokens_out, tokens_out or total - tokens_in
        if tokens_in == tokens_out == total:  # the sum alone tells neither part
            tokens_in = tokens_out = 0
    cached = min(cached, tokens_in)
    written = min(written, tokens_in - cached)
    return ReportedUsage(tokens_in or None, tokens_out or None, min(thinking, tokens_out), cached, written)


class UsageReports:
    """The reports of one call, in order: one of a whole answer, any number of a stream.

    Attributes:
        words: how many words of the answer came.
    """

    def __init__(self) -> None:
        self.words, self._within = 0, False
        self._reports: list[ReportedUsage] = []

    def add(self, usage: object) -> None:
        """Add a report; None adds nothing."""
        report = read_usage(usage)
        if report.input or report.output:
            self._reports.append(report)

    def add_text(self, text: str) -> None:
        """Count the words of a piece of the answer; a word may be cut across pieces."""
        if text:
            self.words += len(text.split()) - (self._within and not text[0].isspace())
            self._within = not text[-1].isspace()

    def total(self) -> ReportedUsage:
        """What the call used, by all of its reports."""
        found = self._sum() if self._reports else ReportedUsage()
        if found.output is not None and self.words > WORDS_A_TOKEN * found.output:
            return replace(found, output=None, thinking=0)
        return found

    def _sum(self) -> ReportedUsage:
        """The reports as one: the largest where each is a total so far, else their sum.

        A prompt is read once, so reports that repeat the input are totals so far. A last report that brings
        the input together with all output before it is a total, too. Where no report has an input, counts
        that never fall are totals. Everything else adds up, as LangChain's chunks are meant to.
        """
        reports = self._reports
        ins, outs = [one.input or 0 for one in reports], [one.output or 0 for one in reports]
        grows = len(outs) > 1 and outs == sorted(outs)
        repeated = sum(1 for one in ins if one) > 1
        account = bool(ins[-1]) and not any(ins[:-1]) and outs[-1] >= sum(outs[:-1]) > 0
        silent = not any(ins[:-1]) and len(outs) > 2 and grows and outs[-1] > outs[0]
        add = sum if not ((repeated and grows) or account or silent) else max
        return ReportedUsage(
            input=(max(ins) if repeated else sum(ins)) or None,
            output=add(outs) or None,
            thinking=min(add([one.thinking for one in reports]), add(outs)),
            cached=max(one.cached for one in reports),
            written=max(one.written for one in reports),
        )


def charged(reported: ReportedUsage, worst: Usage) -> Usage:
    """What a call of another library's client is charged: what its provider reports, and what was held for
    each part that the provider doesn't report.

    Args:
        worst: what was held.
    """
    prompt = worst.input if reported.input is None else reported.input
    if reported.output is None:
        thinking, solution, unknown = 0, 0, worst.generated
    else:
        thinking, solution, unknown = reported.thinking, reported.output - reported.thinking, 0
    return Usage(
        prompt=prompt,
        thinking=thinking,
        solution=solution,
        unknown=unknown,
        input=prompt,
        cached=reported.cached,
        prompt_cached=reported.cached,
        cache_written=prompt
        if reported.input is None
        else reported.written,  # a hold is for the dearest input
        passes=1,
    )


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((n for name in names if (n := token_count(usage.get(name)))), 0)


def _details(usage: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    for name in names:
        if isinstance(details := usage.get(name), Mapping):
            yield from ((str(key), n) for key, value in details.items() if (n := token_count(value)))


def _ending(details: Mapping[str, int], names: tuple[str, ...]) -> int:
    return sum(n for key, n in details.items() if any(key == one or key.endswith(f"_{one}") for one in names))
