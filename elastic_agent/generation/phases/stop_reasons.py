"""Why thinking ended, and why the solution ended."""

from __future__ import annotations

from enum import StrEnum


class ThinkingEnd(StrEnum):
    """Why thinking ended."""

    NATURAL = "natural"
    """The model closed it."""
    BUDGET = "budget"
    """It reached its limit, or one of the upstream's own; also t=0."""
    DEADLINE = "deadline"
    """The time was needed for the solution."""
    PREEMPTED = "preempted"
    """Its limit was lowered below what it had used, or the scheduler took the rest."""
    STABLE = "stable"
    """Its answer no longer changed (`elastic_agent.generation.early_exit`)."""
    END_OF_TEXT = "end_of_text"
    """The model ended its turn while thinking."""
    TOOL_CALL = "tool_call"
    """The model began a tool call, which only its solution can make."""
    EMPTY = "empty"
    """The first pass brought nothing at all."""
    NEVER_OPENED = "never_opened"
    """The model answered without thinking."""
    OFF = "off"
    """The prompt had closed the thinking block already."""
    ABORTED = "aborted"
    """The call was cancelled or failed."""


class SolutionEnd(StrEnum):
    """Why the solution ended."""

    EOS = "eos"
    STOP = "stop"
    """A stop string."""
    LENGTH = "length"
    """It reached its limit."""
    DEADLINE = "deadline"
    REOPENED = "reopened"
    """The model ended its turn in thinking that it had opened again: no answer stands behind it."""
    ABORTED = "aborted"


CUT = frozenset({ThinkingEnd.BUDGET, ThinkingEnd.DEADLINE, ThinkingEnd.PREEMPTED, ThinkingEnd.STABLE})
"""Ends at which thinking was cut: the close that is forced then has a wrap-up, where one is set."""
