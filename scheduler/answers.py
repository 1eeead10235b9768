"""How long an endpoint's answers are, as seen lately: what is left of a running one, and what to expect."""

from __future__ import annotations

import math

from elastic_agent.scheduler.forecast import Habits
from elastic_agent.scheduler.latency import Speed
from elastic_agent.scheduler.request import MIN_SOLUTION, Running


class Answers:
    """See the module.

    Args:
        habits: what calls of a kind looked like.
    """

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._shares: dict[str, float] = {}  # by kind: solutions as a share of their limits

    def seen(self, running: Running) -> None:
        """A call is over."""
        if running.slot.seen:
            kind, share = running.request.kind, running.slot.seen / running.grant.budget.solution
            before = self._shares.get(kind, share)
            self._shares[kind] = before + (min(share, 1.0) - before) / 16

    def size(self, kind: str) -> int:
        """Solution tokens of a call of a kind; nobody is refused for a guess."""
        habit = self._habits.get(kind)
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
