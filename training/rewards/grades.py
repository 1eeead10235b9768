"""What goes into a grader and what comes out: the words that all graders share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from elastic_agent.errors import ElasticError


class RewardFailedError(ElasticError):
    """A reward failed on more samples than is allowed; the message names it and its last failure."""


class WorkerError(ElasticError):
    """A process that grades could not be started, or died."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a grader may look at. There is no field for the thinking: it can earn nothing."""

    solution: str
    """Text after the close, and nothing before it."""
    answer: Any = None
    """The reference: an answer, or the tests of a program."""
    finished: bool = True
    """The solution ended by itself, within its limit."""
    thinking_tokens: int = 0
    solution_tokens: int = 0
    closes: int = 1
    """End-of-thinking markers in the completion; more than one means that thinking was opened again."""
    length_target: int | None = None
    """Tokens that the prompt asks for, where it does (L1)."""
    columns: dict[str, Any] = field(default_factory=dict)
    """The other columns of the data set, for graders of your own."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A score, and why it is not 1. `failure` is for a grader that failed: the sample may have been right."""

    score: float
    why: str = ""
    failure: str = ""

    @classmethod
    def failed(cls, failure: str) -> Self:
        return cls(0.0, "the grader failed", failure)


class Grader(Protocol):
    """Scores samples together, so that it may work on them in parallel; one grade a sample, in order.

    `finished` is seen to by the caller: unfinished solutions score 0 and are not handed on.
    """

    name: str

    def grade(self, samples: Sequence[Sample]) -> list[Grade]: ...

    def close(self) -> None: ...


def default_workers() -> int:
    """Processes to grade with: the cores that this process may use, 16 at most."""
    return max(1, min(16, len(os.sched_getaffinity(0))))
