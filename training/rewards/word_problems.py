"""Word problems, e1-tiny's task: the number in the solution's "Answer : x ."."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.word_problems import parse_answer
from .grades import Grade, Sample


def solution_reward(solution: str, finished: bool, answer: int) -> float:
    """1.0 for the right answer in a finished solution, else 0.0. A cut solution is unfinished."""
    return float(finished and parse_answer(solution) == answer)


class WordProblemGrader:
    """`solution_reward` as a grader."""

    name = "word-problems"

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        scores = [solution_reward(one.solution, one.finished, int(one.answer)) for one in samples]
        return [Grade(score, "" if score else "wrong answer") for score in scores]

    def close(self) -> None:
        """It holds nothing."""
