"""What calls are expected to use, besides the thinking that is being decided: floors and averages.

A floor is what a call of a kind uses when it doesn't think: its close and its solution, as the curves say, as
seen lately, or as a share of its limit. Solutions of calls that don't think are long, where the curves know
it; `expected` takes a running call's solution from the same curve at its own thinking. Long ones here beside
average ones there would turn each grant into room that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from elastic_agent.scheduler.accounts import INFINITY, NOTHING, Amount
from elastic_agent.scheduler.curves import Curve
from elastic_agent.scheduler.forecast import FINAL, Habit
from elastic_agent.scheduler.request import MIN_SOLUTION, Book, Request
from elastic_agent.usage import worst_input

UNSEEN = 0.25
"""Share of its solution budget that a call is taken to use while no call of its kind has been seen."""


class Floor(NamedTuple):
    """What is known of calls of a kind that is still to come.

    Attributes:
        curve: their success curve.
        solution, tokens, nano: what one that doesn't think is expected to use: solution tokens, all tokens,
            and nano-dollars.
    """

    curve: Curve
    solution: int
    tokens: int
    nano: int


class Floors(dict[str, Floor]):
    """The floors of calls by kind, in one decision; each is worked out when it is first asked for."""

    def __init__(self, request: Request) -> None:
        self._request, self._bias = request, request.habits.bias

    def __missing__(self, kind: str) -> Floor:
        request = self._request
        habit, price = request.habits.get(kind), request.price
        prompt = round(habit.prompt) if habit and kind != request.kind else request.prompt
        curve = request.curves.curve(kind)
        solution = _solution(request, curve.unthought, habit, self._bias)
        nano = 0 if price is None else price.bound(worst_input(prompt, 0, request.close), solution)
        self[kind] = floor = Floor(curve, solution, request.close + solution, nano)
        return floor

    def add_up(self, kinds: Mapping[str, int]) -> Amount:
        """The floors of so many calls of these kinds."""
        tokens = nano = 0
        for kind, count in kinds.items():
            floor = self[kind]
            tokens += floor.tokens * count
            nano += floor.nano * count
        return Amount(tokens, nano)


def expected(request: Request, thinking: int, solution: int) -> Amount:
    """What a call with this budget is expected to use."""
    used, says = _by_curve(request.curve, thinking)
    habits = request.habits
    writes = _solution(request, says, habits.get(request.kind), habits.bias)
    return request.worst(used, min(writes, solution))


@lru_cache(maxsize=4096)
def _by_curve(curve: Curve, thinking: int) -> tuple[int, float | None]:
    """Thinking and solution tokens of a call with this limit. Kept, since a curve never changes."""
    return min(math.ceil(curve.used(thinking)), thinking), curve.says(thinking)


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
    pending = request.book.forecast.pending
    if sum(pending.values()) == 1:  # itself
        return NOTHING, NOTHING
    kinds = dict(pending)
    kinds[request.kind] -= 1
    kinds.pop(FINAL, None)
    waiting = sum(kinds.values())
    if not waiting:
        return NOTHING, NOTHING
    least = request.worst(0, request.least_solution())
    smallest = Amount(least.tokens * waiting, least.nano * waiting)
    return smallest, floors.add_up(kinds).most(smallest)


def _solution(request: Request, says: float | None, habit: Habit | None, bias: float) -> int:
    """Solution tokens that a call is expected to use.

    As measured, corrected by how far that was off lately; else as seen lately, else a share of the limit.

    Args:
        says: what its curve says, for the thinking that it has.
    """
    seen = habit.solution if habit else request.solution * UNSEEN
    size = seen if says is None else says * bias
    return max(1, math.ceil(min(size, request.solution)))
