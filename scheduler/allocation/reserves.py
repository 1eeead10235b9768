"""What is kept for final answers: how much each needs, and which reserves a decision moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..estimates.workload import FINAL, MIN_SOLUTION
from ..latency.slack import Timing
from ..ledger.amounts import INFINITY, NOTHING, Amount
from .request import Request
from .snapshot import AccountView, Snapshot, TaskView
from .task_state import FinalAnswer


class ReserveMoves(NamedTuple):
    """The reserves that a decision brings up to date, whatever becomes of the call; `dispatch.apply` writes
    them.

    Attributes:
        final_answers: by task of the lineage, what is known of the task's final answer by now.
        reserves: each reserve that changes, as (place in the lineage, new amount).
        seconds: by task of the lineage, the seconds at the task's end that only the final answer may use.
        accounts: the path after the reserves have changed.
        shortfall: what the reserve of the call's own task still lacks.
        ancestor_shortfall: what the tasks around it lack for final answers that they have declared.
    """

    final_answers: tuple[FinalAnswer, ...]
    reserves: tuple[tuple[int, Amount], ...]
    seconds: tuple[float, ...]
    accounts: tuple[AccountView, ...]
    shortfall: Amount
    ancestor_shortfall: Amount


def plan_reserves(snapshot: Snapshot, timing: Timing) -> ReserveMoves:
    """The reserves that go with a decision.

    The own task's shrinks at once where the final answer is known by now to need less; what it lacks is taken
    together with the call's hold. Tasks around it keep their final answers before the call gets its tokens.
    """
    request, tasks = snapshot.request, snapshot.tasks
    accounts = list(snapshot.accounts)
    reserves: list[tuple[int, Amount]] = []
    own, answers = tasks[0], [task.final_answer for task in tasks]
    shortfall = above = NOTHING
    if own.reserving:  # for a final call, too, which says how long the answer may be
        answers[0] = final_answer(own, accounts[0].tokens, request, final=request.terms.final)
        target, reserve = answers[0].need, accounts[0].reserve
        if not request.terms.final and target != reserve:
            if target.fits_in(reserve):
                _move(accounts, 0, target - reserve)
                reserves.append((0, target))
            else:
                shortfall = target.excess_over(reserve)
    seconds = [0.0] * len(tasks)
    for i, task in enumerate(tasks):
        if task.reserving:
            seconds[i] = _final_seconds(snapshot, timing, task, answers[i])
    for i in range(1, len(tasks)):
        if tasks[i].reserving:
            answers[i] = final_answer(tasks[i], accounts[i].tokens, request)
            wish = answers[i].need.max(accounts[i].reserve)
            more = wish - accounts[i].reserve
            if not more.tokens and not more.nano:
                continue
            if _fits(accounts[i:], more):
                _move(accounts, i, more)
                reserves.append((i, wish))
            elif FINAL in tasks[i].calls.own:
                above += more
    return ReserveMoves(tuple(answers), tuple(reserves), tuple(seconds), tuple(accounts), shortfall, above)


def final_answer(task: TaskView, cap: int | None, request: Request, *, final: bool = False) -> FinalAnswer:
    """What is known of the final answer, which doesn't think, of the call's task or of a task around it.

    Its size is what the task's user has given. Else the size is the first call's solution limit, at most a
    quarter of the token cap; where lengths of right solutions are known, at most what nine of ten need of the
    kinds that the final call may be of; where the task's agent is known, at most what nine of ten of the
    agent's final answers needed. Its prompt is the largest seen, and the answer's size again.

    Args:
        cap: the task's own, in tokens.
        final: this call is the task's final answer.
    """
    known, first, asked = task.final_answer, task.final_answer.first_solution, request.size
    if known.given is not None:
        size = known.given
    else:
        if first is None:
            quarter = asked.solution if cap is None else max(MIN_SOLUTION, cap // 4)
            first = min(max(asked.solution, MIN_SOLUTION), quarter)
        size = _likely_size(task, request, first, final)
    prompt = max(task.largest_prompt, asked.prompt) + size
    basis = (size, prompt, asked.close, request.model.price)
    if known.basis == basis:  # mostly nothing has changed since the last call
        return known if known.first_solution == first else known._replace(first_solution=first)
    return FinalAnswer(size, known.given, first, request.worst(0, size, prompt), basis)


def _likely_size(task: TaskView, request: Request, first: int, final: bool) -> int:
    """Solution tokens of the final answer, at most `first`."""
    kinds = task.calls.coming or task.calls.pending
    if final:
        usual = request.curve.p90_solution
    elif FINAL in kinds or not kinds:
        usual = request.model.curves.curve(FINAL).p90_solution
    else:  # the final answer is one of the calls that the task has declared and not made
        usual = max([request.model.curves.curve(kind).p90_solution for kind in kinds])
    size, past = first, task.calls.past
    if usual < INFINITY:
        size = max(MIN_SOLUTION, min(size, math.ceil(usual * request.model.usage_stats.bias)))
    if past is not None and past.final is not None:
        size = max(MIN_SOLUTION, min(size, past.final))
    return size


def _final_seconds(snapshot: Snapshot, timing: Timing, task: TaskView, answer: FinalAnswer) -> float:
    prompt = max(task.largest_prompt, snapshot.request.size.prompt) + answer.size
    return timing.final_answer_seconds(snapshot.speed, answer.size, prompt)


def _fits(path: Sequence[AccountView], more: Amount) -> bool:
    """Whether each account of a path has room for so much more; an overdrawn account has none."""
    return all(
        (account.tokens is None or more.tokens <= max(0, account.free.tokens))
        and (account.nano is None or more.nano <= max(0, account.free.nano))
        for account in path
    )


def _move(accounts: list[AccountView], at: int, more: Amount) -> None:
    """The account at this place of the path reserves so much more."""
    for i in range(at, len(accounts)):
        one = accounts[i]
        held = Amount(one.held.tokens + more.tokens, one.held.nano + more.nano)
        reserved = Amount(one.reserved.tokens + more.tokens, one.reserved.nano + more.nano)
        reserve = one.reserve + more if i == at else one.reserve
        accounts[i] = one._replace(held=held, reserved=reserved, reserve=reserve)
