"""Problems of reasoning-gym: the final answer of a solution, by the family's own scorer."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..data.gym import Origin
from .answers import boxed, final_answer
from .grades import Grade, Sample


def answer_in(solution: str) -> str | None:
    """The final answer of a solution as text: a box's content, what stands behind "Answer:", or the last
    line."""
    found = final_answer(solution)
    return found if found is None else boxed(found) or found


def solves(solution: str, origin: Origin) -> bool:
    """Whether the family's scorer gives a solution's answer 1; what it gives less is no half of an answer."""
    return origin.score(answer_in(solution)) >= 1.0


class GymGrader:
    """`solves` as a grader."""

    name = "gym"

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """`Sample.answer` is an `Origin` as JSON."""
        right = [solves(one.solution, Origin(**json.loads(one.answer))) for one in samples]
        return [Grade(float(one), "" if one else "wrong answer") for one in right]

    def close(self) -> None:
        """It holds nothing."""
