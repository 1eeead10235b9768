"""What a grader reads and returns, and how samples are given to it: shared by training and evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from elastic_agent.errors import ElasticError

from ..config.processes import processes_here

log = logging.getLogger("elastic_agent.training.rewards")


class RewardFailedError(ElasticError):
    """A reward failed on more samples than is allowed; the message names it and its last failure."""


class WorkerError(ElasticError):
    """A process that grades could not be started, or died."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a grader may read of a sample. The thinking is no field, so it can earn nothing."""

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
    """A score, and why it is not 1. With a `failure` the grader failed: the sample may have been right."""

    score: float
    why: str = ""
    failure: str = ""

    @classmethod
    def failed(cls, failure: str) -> Self:
        return cls(0.0, "the grader failed", failure)


class Grader(Protocol):
    """Scores samples together, so that a grader may work in parallel; one grade a sample, in order.

    Callers hand on finished solutions only (`grade_finished`); an unfinished one scores 0.
    """

    name: str

    def grade(self, samples: Sequence[Sample]) -> list[Grade]: ...

    def close(self) -> None: ...


def grade_all(grader: Grader, samples: Sequence[Sample]) -> list[Grade]:
    """One grade a sample, whatever a sample does to its grader.

    The samples are graded together. If the grader raises, they are graded one by one, so that a bad sample
    costs only itself.
    """
    if not samples:
        return []
    try:
        grades = grader.grade(samples)
        if len(grades) != len(samples):
            raise ValueError(f"{len(grades)} grades for {len(samples)} samples")
        return grades
    except Exception as error:
        if len(samples) == 1:
            return [Grade.failed(f"{type(error).__name__}: {error}"[:200])]
        log.warning("grader %s raised on a batch (%r): grading one by one", grader.name, error)
        return [grade for sample in samples for grade in grade_all(grader, [sample])]


def grade_finished(grader: Grader, samples: Sequence[Sample]) -> list[Grade]:
    """`grade_all`, but an unfinished solution is wrong, and is not handed on."""
    grades = iter(grade_all(grader, [sample for sample in samples if sample.finished]))
    return [next(grades) if sample.finished else Grade(0.0, "not finished") for sample in samples]


def default_workers(most: int | None = None) -> int:
    """Processes to grade with in this process of training, which shares its machine with others.

    Args:
        most: on the whole machine; None: the cores that may be used, 16 at most.
    """
    machine = most or min(16, len(os.sched_getaffinity(0)))
    return max(1, machine // processes_here())
