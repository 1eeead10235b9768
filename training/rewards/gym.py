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


class GymGrader:
    """Right is what the family's scorer gives 1; what it gives for less is no half of an answer."""

    name = "gym"

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """`Sample.answer` is an `Origin` as JSON."""
        scores = [Origin(**json.loads(one.answer)).score(answer_in(one.solution)) for one in samples]
        return [Grade(float(score >= 1.0), "" if score >= 1.0 else "wrong answer") for score in scores]

    def close(self) -> None:
        """It holds nothing."""
