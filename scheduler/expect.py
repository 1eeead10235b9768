"""What calls are expected to use, besides the thinking that is being decided: floors and averages.

A floor is what a call of a kind uses when it doesn't think: its close and its solution, as the curves say, as
seen lately, or as a share of its limit. Solutions of calls that don't think are long, where the curves know
it; `expected` takes a running call's solution from the same curve at its own thinking. Long ones here beside
average ones there would turn each grant into room that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from elastic_agent.scheduler.accounts import INFINITY, NOTHING, Amount
from elastic_agent.scheduler.forecast import FINAL, Habit
from elastic_agent.scheduler.request import MIN_SOLUTION, Book, Request

UNSEEN = 0.25
"""Share of its solution budget that a call is taken to use while no call of its kind has been seen."""


class Floor(NamedTuple):
    """What a call that doesn't think is expected to use: solution tokens, and all of it."""

    solution: int
    amount: Amount


class Floors:
    """The floors of all kinds of calls in one decision; each is worked out once."""

    def __init__(self, request: Request) -> None:
        self._request, self._bias = request, request.habits.bias
        self._known: dict[str, Floor] = {}

    def of(self, kind: str) -> Floor:
        """The floor of one call of a kind."""
        found = self._known.get(kind)
        if found is None:
            request = self._request
            habit = request.habits.get(kind)
            prompt = round(habit.prompt) if habit and kind != request.kind else request.prompt
            solution = _solution(request, request.curves.curve(kind).unthought, habit, self._bias)
            found = self._known[kind] = Floor(solution, request.worst(0, solution, prompt))
        return found

    def add_up(self, kinds: Mapping[str, int]) -> tuple[Amount, int]:
        """The floors of so many calls of these kinds, and the sum of the squares of their solutions."""
        tokens = nano = squares = 0
        for kind, count in kinds.items():
            solution, amount = self.of(kind)
            tokens += amount.tokens * count
            nano += amount.nano * count
            squares += solution * solution * count
        return Amount(tokens, nano), squares


def expected(request: Request, thinking: int, solution: int) -> Amount:
    """What a call with this budget is expected to use."""
    used = math.ceil(request.curve.used(thinking))
    habits = request.habits
    says = _solution(request, request.curve.says(thinking), habits.get(request.kind), habits.bias)
    return request.worst(min(used, thinking), min(says, solution))


def reserve_for(level: Book, request: Request) -> Amount:
    """What the final answer of this call's task, or of one around it, needs: it doesn't think.

    Until more is known it is as long as this call's solution, and its prompt is the largest seen and as much
    again.
    """
    if level.final_solution is None:
        cap = level.account.tokens
        quarter = INFINITY if cap is None else max(MIN_SOLUTION, cap // 4)
        level.final_solution = int(min(max(request.solution, MIN_SOLUTION), quarter))
    size = level.final_solution
    return request.worst(0, size, max(level.largest_prompt, request.prompt) + size)


def behind(request: Request, floors: Floors) -> tuple[Amount, Amount]:
    """The calls of this task that wait behind this one: the smallest answers, and what they may come to."""
    kinds = dict(request.book.forecast.pending)
    kinds[request.kind] -= 1
    kinds.pop(FINAL, None)
    waiting = sum(kinds.values())
    if not waiting:
        return NOTHING, NOTHING
    least = request.worst(0, request.least_solution())
    smallest = Amount(least.tokens * waiting, least.nano * waiting)
    return smallest, floors.add_up(kinds)[0].most(smallest)


def _solution(request: Request, says: float | None, habit: Habit | None, bias: float) -> int:
    """Solution tokens that a call is expected to use.

    As measured, corrected by how far that was off lately; else as seen lately, else a share of the limit.

    Args:
        says: what its curve says, for the thinking that it has.
    """
    seen = habit.solution if habit else request.solution * UNSEEN
    size = seen if says is None else says * bias
    return max(1, math.ceil(min(size, request.solution)))
