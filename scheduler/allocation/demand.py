"""What calls are expected to use besides the thinking that is being decided.

The minimum of a kind is what one of its calls uses when it doesn't think: its close and its solution, as the
curves say, as seen lately, or as a share of its limit. Solutions are longer where a call doesn't think, if
the curves know it. `expected` reads a running call's solution from the same curve, at that call's thinking:
with lengths from two sources each grant would seem to free tokens that are not free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from ..estimates.call_stats import AverageUsage
from ..estimates.success_curve import Curve
from ..estimates.workload import FINAL
from ..latency.slack import RemainingWork
from ..ledger.amounts import NOTHING, Amount
from ..policies.protocol import Need, needs
from .request import Request
from .snapshot import TaskView

UNSEEN = 0.25
"""Share of its solution budget that a call is taken to use while no call of its kind has been seen."""


class RemainingDemand(NamedTuple):
    """What a call and the calls that are still to come in one task are expected to use.

    Attributes:
        needs: of the calls to come, in the order of their kinds.
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


def remaining_demand(request: Request, others: Mapping[str, int]) -> RemainingDemand:
    """What this call and so many others of these kinds are expected to use."""
    size, mine, model = request.size, request.terms.kind, request.model
    curve_of, known, bias = model.curves.curve, model.usage_stats.known, model.usage_stats.bias
    calls = solutions = prompts = 0  # of the others
    last = last_solutions = last_prompts = 0  # of final answers among the others
    curves, counts = [], []
    for kind in sorted(others):
        count, curve, usage = others[kind], curve_of(kind), known.get(kind)
        solution = count * _solution(curve.unthought, usage, bias, size.solution)
        prompt = count * (round(usage.prompt) if usage and kind != mine else size.prompt)
        if kind == FINAL:
            last, last_solutions, last_prompts = count, solution, prompt
        curves.append(curve)
        counts.append(count)
        calls += count
        solutions += solution
        prompts += prompt
    own = _solution(curve_of(mine).unthought, known.get(mine), bias, size.solution)
    tokens, nano = _unthinking(request, 1 + calls, size.prompt + prompts, own + solutions)
    return RemainingDemand(
        needs(tuple(curves), tuple(counts)),
        calls,
        tokens,
        nano,
        calls - last,
        solutions - last_solutions,
        prompts - last_prompts,
    )


def expected(request: Request, thinking: int, solution: int) -> Amount:
    """What a call with this budget is expected to use."""
    used, says = _by_curve(request.curve, thinking)
    stats, limit = request.model.usage_stats, request.size.solution
    writes = _solution(says, stats.known.get(request.terms.kind), stats.bias, limit)
    return request.worst(used, min(writes, solution))


def work_after(request: Request, task: TaskView, remaining: RemainingDemand, solution: int) -> RemainingWork:
    """What has to happen in time once this call has thought, in its own task.

    Args:
        task: the call's own.
        remaining: what is still to come there.
        solution: tokens of this call's solution.
    """
    running, calls = task.calls.running, remaining.steps
    lanes = max(1, running + task.calls.waiting)
    waves = math.ceil((running + 1 + calls) / lanes) - 1
    each = math.ceil(remaining.solutions / calls) if calls else 0
    theirs = math.ceil(waves * remaining.prompts / calls) if calls else 0
    prompt = request.size.prompt
    if not task.reserving or request.terms.final:
        return RemainingWork(solution, waves, each, 0, prompt, 0, theirs)
    final = task.final_answer.size
    final_prompt = max(task.largest_prompt, prompt) + final
    return RemainingWork(solution, waves, each, final, prompt, 0, theirs, final_prompt)


@lru_cache(maxsize=4096)
def _by_curve(curve: Curve, thinking: int) -> tuple[int, float | None]:
    """Thinking and solution tokens of a call with this limit. Kept, since a curve never changes."""
    return min(math.ceil(curve.used(thinking)), thinking), curve.solution_at(thinking)


def queued(request: Request, task: TaskView, least: int) -> tuple[Amount, Amount]:
    """The calls of this task that wait behind this one: their smallest answers, and what they may come to.

    A call that the task has not declared comes behind all that it has.

    Args:
        least: the smallest solution of this call.
    """
    calls = task.calls
    terms = request.terms
    coming = {} if request.declared or terms.final or not calls.declared else calls.coming
    if calls.waiting == 1 and not coming:  # itself
        return NOTHING, NOTHING
    kinds = dict(calls.pending)
    kinds[terms.kind] -= 1
    for kind, more in coming.items():
        kinds[kind] = kinds.get(kind, 0) + more
    kinds.pop(FINAL, None)
    waiting = sum(kinds.values())
    if not waiting:
        return NOTHING, NOTHING
    one = request.worst(0, least)
    smallest = Amount(one.tokens * waiting, one.nano * waiting)
    behind = remaining_demand(request, {kind: count for kind, count in kinds.items() if count})
    likely = _unthinking(request, waiting, behind.prompts, behind.solutions)
    return smallest, Amount(*likely).max(smallest)


def _unthinking(request: Request, calls: int, prompts: int, solutions: int) -> tuple[int, int]:
    """Tokens and nano-dollars of so many calls that don't think, with so many tokens in all."""
    close, price = request.size.close, request.model.price
    closes = calls * close
    return closes + solutions, 0 if price is None else price.bound(prompts + closes, solutions)


def _solution(says: float | None, usage: AverageUsage | None, bias: float, limit: int) -> int:
    """Solution tokens that a call is expected to use.

    As measured, corrected by how far that was off lately; else as seen lately, else a share of the limit.

    Args:
        says: what the kind's curve says, for the thinking that the call has.
        bias: by which factor such curves were off lately (`UsageStats.bias`).
    """
    seen = usage.solution if usage else limit * UNSEEN
    size = seen if says is None else says * bias
    return max(1, math.ceil(size) if size < limit else limit)
