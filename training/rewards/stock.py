"""Stock problems, e1-tiny's task: the number in the solution's "Answer : x .".

`make_reward` is a whole reward function without config, as e1-tiny was trained; `StockGrader` is the same for
`RewardConfig`. Both follow TRL's reward signature. ``solution_ids`` and ``finished`` come from the rollout,
per sample; TRL's own ``completions`` (decoded with special tokens skipped, so thinking and solution run
together) is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from elastic_agent.training.rewards.grades import Grade, Sample
from elastic_agent.training.stock_problems import parse_answer

Decode = Callable[[Sequence[int]], str]
Reward = Callable[..., list[float]]


def solution_reward(solution: str, finished: bool, answer: int) -> float:
    """1.0 for the right answer in a finished solution, else 0.0. Cut off by its limit is not finished."""
    return float(finished and parse_answer(solution) == answer)


def make_reward(decode: Decode) -> Reward:
    """The reward function that TRL calls with lists, one entry a sample."""

    def right_answer(
        *,
        solution_ids: Sequence[Sequence[int]],
        finished: Sequence[bool],
        answer: Sequence[int],
        **_: Any,
    ) -> list[float]:
        return [
            solution_reward(decode(ids), done, truth)
            for ids, done, truth in zip(solution_ids, finished, answer, strict=True)
        ]

    return right_answer


class StockGrader:
    """`solution_reward` as a grader."""

    name = "stock"

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        scores = [solution_reward(one.solution, one.finished, int(one.answer)) for one in samples]
        return [Grade(score, "" if score else "wrong answer") for score in scores]

    def close(self) -> None:
        """It holds nothing."""
