"""How long an endpoint's answers are, as seen lately: what is left of a running one, and what to expect."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..allocation.request import MIN_SOLUTION, Running
from ..latency.model import Speed
from .workload import Habits

FEW, MEMORY = 4, 32
"""Solutions from which on their share of the final answer's limit may count, and how many are remembered."""


class Answers:
    """See the module.

    Args:
        habits: what calls of a kind looked like.
    """

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._shares: dict[str, float] = {}  # by kind: solutions as a share of their limits
        self._scales: dict[str, _Scale] = {}  # by kind

    def seen(self, running: Running) -> None:
        """A call is over."""
        if running.slot.seen:
            limit = running.request.book.final_solution
            if limit:
                scale = self._scales.setdefault(running.request.kind, _Scale())
                scale.seen(running.slot.seen, limit, self.size(running.request.kind))
            kind, share = running.request.kind, running.slot.seen / running.grant.budget.solution
            before = self._shares.get(kind, share)
            self._shares[kind] = before + (min(share, 1.0) - before) / 16

    def size(self, kind: str, final: int = 0) -> int:
        """Solution tokens of a call of a kind; nobody is refused for a guess.

        Args:
            final: solution limit of its task's final answer, 0 if none was given. Steps of tasks with long
                answers are often longer than others; where they are, the size follows from it.
        """
        habit, scale = self._habits.get(kind), self._scales.get(kind)
        if final and scale is not None and scale.better:
            return max(1, round(scale.share * final))
        return MIN_SOLUTION if habit is None else max(1, round(habit.solution))

    def prompt(self, kind: str) -> int:
        """Prompt tokens of a call of a kind; nobody is refused for a guess."""
        habit = self._habits.get(kind)
        return 0 if habit is None else round(habit.prompt)

    def share(self, kind: str) -> float:
        """How much of their limits the solutions of a kind usually take."""
        return self._shares.get(kind, 1.0)

    def rest(self, running: Running, done: int, speed: Speed) -> float:
        """Seconds that a running call, so many solution tokens done, still takes if it stops thinking now."""
        budget = running.grant.budget
        limit = budget.solution
        size = self.share(running.request.kind) * limit
        if budget.thinking and not done:
            return speed.answer(math.ceil(size), speed.again * running.request.prompt)
        left = size - done if done < size else (limit - done) / 2  # longer than usual: as long as any
        return left * speed.tpot


@dataclass(slots=True)
class _Scale:
    """Solutions of a kind as a share of the final answers' limits of their tasks.

    Attributes:
        share: their mean.
        off, mean_off: by how many tokens that share misses them, and by how many their mean does, on average.
    """

    share: float = 0.0
    off: float = 0.0
    mean_off: float = 0.0
    count: int = 0

    @property
    def better(self) -> bool:
        """Whether the share tells more than the mean."""
        return self.count >= FEW and self.off < self.mean_off

    def seen(self, tokens: int, limit: int, mean: int) -> None:
        """A solution of so many tokens, where the mean of its kind was so many."""
        self.count = min(self.count + 1, MEMORY)
        if self.count > 1:
            self.off += (abs(tokens - self.share * limit) - self.off) / self.count
            self.mean_off += (abs(tokens - mean) - self.mean_off) / self.count
        self.share += (tokens / limit - self.share) / self.count
