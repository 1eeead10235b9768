"""Graders of an evaluation: those of training, and any function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from ...rewards.functions import make_grader
from ...rewards.grades import Grade, Grader, Sample, grade_finished

Judge = Callable[[Any, str, bool], object]
"""(`Item`, the solution's text, whether it ended by itself within its limit) -> right, by its truth."""


class FinishedOnly:
    """A grader of training: an unfinished solution is wrong, and is not run."""

    def __init__(self, grader: Grader) -> None:
        self.grader, self.name = grader, grader.name

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        return grade_finished(self.grader, samples)

    def close(self) -> None:
        self.grader.close()


class FunctionGrader:
    """A function as a grader, asked about one sample at a time; one that raises costs that sample."""

    def __init__(self, judge: Judge, name: str = "function") -> None:
        self.judge, self.name = judge, name

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Grade:
        try:
            right = bool(self.judge(sample.columns["problem"], sample.solution, sample.finished))
        except Exception as error:
            return Grade.failed(f"{type(error).__name__}: {error}"[:200])
        return Grade(float(right), "" if right else "wrong answer")

    def close(self) -> None:
        """It holds nothing."""


def grader_of(kind: str) -> Grader:
    """The grader that training has for a kind of problem; it raises what `make_grader` raises."""
    return FinishedOnly(make_grader(kind))


def load_grader(name: str) -> FunctionGrader:
    """A grader by the dotted name of a function, `package.module:function`.

    Raises:
        ValueError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        return FunctionGrader(getattr(import_module(module), function), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no grader {name!r}; expected package.module:function ({error})") from None
