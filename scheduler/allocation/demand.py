"""What calls are expected to use, besides the thinking that is being decided: floors and averages.

A floor is what a call of a kind uses when it doesn't think: its close and its solution, as the curves say, as
seen lately, or as a share of its limit. Solutions of calls that don't think are long, where the curves know
it; `expected` takes a running call's solution from the same curve at its own thinking. Long ones here beside
average ones there would turn each grant into room that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from elastic_agent.usage import worst_input

from ..estimates.call_stats import AverageUsage
from ..estimates.success_curve import Curve
from ..estimates.workload import FINAL, MIN_SOLUTION
from ..ledger.amounts import INFINITY, NOTHING, Amount
from ..policies.protocol import Need, needs
from .request import Request, TaskState

UNSEEN = 0.25
"""Share of its solution budget that a call is taken to use while no call of its kind has been seen."""


Floor = tuple[Curve, int, int]
"""What is known of calls of a kind that is still to come: their success curve, the solution tokens that one
that doesn't think is expected to use, and prompt tokens."""


class Outlook(NamedTuple):
    """A call and those that are still to come on one level.

    Attributes:
        needs: of those to come, in the order of their kinds.
        calls: how many they are.
        tokens, nano: what all of them, this call too, are expected to use if none thinks.
        steps: how many of them are not the final answer.
        solutions, prompts: tokens of these, all together.
    """

    needs: tuple[Need, ...]
    calls: int
    tokens: int
    nano: int
    steps: int
    solutions: int
    prompts: int


class Floors(dict[str, Floor]):
    """The floors of calls by kind, in one decision; each is worked out once, when it is first asked for."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __missing__(self, kind: str) -> Floor:
        self.look((kind,))
        return self[kind]

    def look(self, kinds: Iterable[str]) -> None:
        """Work out those of these kinds that aren't known yet: many together are cheaper than one by one."""
        request = self._request
        limit, curve_of = request.solution, request.curves.curve
        known, bias = request.usage_stats.known, request.usage_stats.bias
        for kind in kinds:
            if kind not in self:
                curve, usage = curve_of(kind), known.get(kind)
                prompt = round(usage.prompt) if usage and kind != request.kind else request.prompt
                self[kind] = (curve, _solution(curve.unthought, usage, bias, limit), prompt)

    def used(self, calls: int, prompts: int, solutions: int) -> tuple[int, int]:
        """Tokens and nano-dollars of so many calls that don't think, of all their prompts and solutions."""
        close, price = self._request.close, self._request.price
        read = prompts + calls * worst_input(0, 0, close)
        return calls * close + solutions, 0 if price is None else price.bound(read, solutions)

    def outlook(self, others: Mapping[str, int]) -> Outlook:
        """This call and so many others of these kinds."""
        mine = self._request.kind
        self.look((mine, *others))
        curves, counts = [], []
        solutions = prompts = 0
        for kind in sorted(others):
            count = others[kind]
            curve, solution, prompt = self[kind]
            curves.append(curve)
            counts.append(count)
            solutions += solution * count
            prompts += prompt * count
        _, solution, prompt = self[mine]
        calls = sum(counts)
        tokens, nano = self.used(1 + calls, prompt + prompts, solution + solutions)
        if last := others.get(FINAL, 0):
            _, solution, prompt = self[FINAL]
            solutions -= last * solution
            prompts -= last * prompt
        steps = calls - last
        return Outlook(needs(tuple(curves), tuple(counts)), calls, tokens, nano, steps, solutions, prompts)


def expected(request: Request, thinking: int, solution: int) -> Amount:
    """What a call with this budget is expected to use."""
    used, says = _by_curve(request.curve, thinking)
    usage_stats = request.usage_stats
    writes = _solution(says, usage_stats.get(request.kind), usage_stats.bias, request.solution)
    return request.worst(used, min(writes, solution))


@lru_cache(maxsize=4096)
def _by_curve(curve: Curve, thinking: int) -> tuple[int, float | None]:
    """Thinking and solution tokens of a call with this limit. Kept, since a curve never changes."""
    return min(math.ceil(curve.used(thinking)), thinking), curve.solution_at(thinking)


def reserve_for(level: TaskState, request: Request) -> Amount:
    """What the final answer of this call's task, or of one around it, needs: it doesn't think.

    Where nobody said how long it may get it is as long as the first call's solution, at most a quarter of the
    token cap. Where it is known how long right solutions are, no longer than nine of ten of those kinds that
    the final call may be of; where the task's agent is known, than nine of ten of its final answers. Its
    prompt is the largest seen and as much again.
    """
    if level.final_solution is None:
        if level.first_solution is None:
            cap = level.account.tokens
            quarter = request.solution if cap is None else max(MIN_SOLUTION, cap // 4)
            level.first_solution = min(max(request.solution, MIN_SOLUTION), quarter)
        kinds, usual = level.forecast.coming or level.forecast.pending, 0.0
        if request.final and level is request.task:
            usual = request.curve.p90_solution
        elif FINAL in kinds or not kinds:
            usual = request.curves.curve(FINAL).p90_solution
        else:  # it is one of those that the task has declared and not made
            usual = max([request.curves.curve(kind).p90_solution for kind in kinds])
        guess = level.first_solution
        if usual < INFINITY:
            guess = max(MIN_SOLUTION, min(guess, math.ceil(usual * request.usage_stats.bias)))
        past = level.forecast.past
        if past is not None and past.final is not None:
            guess = max(MIN_SOLUTION, min(guess, past.final))
        level.final_guess = size = guess
    else:
        size = level.final_solution
    prompt = max(level.largest_prompt, request.prompt) + size
    for_what = (size, prompt, request.close, request.price)
    if level.wish_for != for_what:  # mostly it is what it was for the last call
        level.wish_for, level.wish = for_what, request.worst(0, size, prompt)
    return level.wish


def behind(request: Request, floors: Floors) -> tuple[Amount, Amount]:
    """The calls of this task that wait behind this one: the smallest answers, and what they may come to.

    One that the task has not declared comes behind all that it has.
    """
    forecast = request.task.forecast
    last = request.declared or request.final
    coming = {} if last or not forecast.declared else forecast.coming
    if forecast.waiting == 1 and not coming:  # itself
        return NOTHING, NOTHING
    kinds = dict(forecast.pending)
    kinds[request.kind] -= 1
    for kind, more in coming.items():
        kinds[kind] = kinds.get(kind, 0) + more
    kinds.pop(FINAL, None)
    waiting = sum(kinds.values())
    if not waiting:
        return NOTHING, NOTHING
    least = request.worst(0, request.least_solution())
    smallest = Amount(least.tokens * waiting, least.nano * waiting)
    prompts = solutions = 0
    for kind, count in kinds.items():
        _, solution, prompt = floors[kind]
        solutions += solution * count
        prompts += prompt * count
    return smallest, Amount(*floors.used(waiting, prompts, solutions)).max(smallest)


def _solution(says: float | None, usage: AverageUsage | None, bias: float, limit: int) -> int:
    """Solution tokens that a call is expected to use.

    As measured, corrected by how far that was off lately; else as seen lately, else a share of the limit.

    Args:
        says: what its curve says, for the thinking that it has.
        bias: of its usage_stats.
    """
    seen = usage.solution if usage else limit * UNSEEN
    size = seen if says is None else says * bias
    return max(1, math.ceil(size) if size < limit else limit)
