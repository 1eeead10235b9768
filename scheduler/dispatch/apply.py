"""Writes what was decided: reserves, holds, and what tasks expect back. Nothing else writes for a
decision."""

from __future__ import annotations

from elastic_agent.usage import Usage

from ..allocation.decision import Allocation
from ..allocation.grant import Basis, Grant, budget
from ..allocation.request import Request, Running
from ..allocation.reserves import ReserveMoves
from ..allocation.task_state import LatestAnswer, TaskState
from ..ledger.accounts import Hold
from ..ledger.amounts import INFINITY, NOTHING, Amount, Shortage
from ..ledger.ledger import Ledger


def move_reserves(ledger: Ledger, request: Request, moves: ReserveMoves) -> None:
    """Bring the reserves up to date, whatever was decided on this call."""
    task = request.task
    task.largest_prompt = max(task.largest_prompt, request.size.prompt)
    for level, answer, seconds in zip(task.lineage, moves.final_answers, moves.seconds, strict=True):
        level.final_answer = answer
        level.account.reserved_seconds = seconds
    for at, amount in moves.reserves:
        ledger.reserve(task.lineage[at].account, amount)


def take_hold(
    ledger: Ledger, allocation: Allocation, amount: Amount, first: Hold | None = None
) -> Hold | Shortage:
    """The hold of an allocation; before it, the final answer's reserve gets what it lacks.

    Args:
        amount: what to hold.
        first: the call's first hold, if this is a further one.
    """
    headroom = allocation.headroom
    account, shortfall = headroom.request.task.account, headroom.moves.shortfall
    if shortfall is not NOTHING and not allocation.last:
        ledger.reserve(account, account.reserve + shortfall)
    return ledger.hold(
        account, amount, until=allocation.until, now=headroom.now, final=allocation.last, first=first
    )


def release_reserve(ledger: Ledger, task: TaskState) -> None:
    """A call has taken the final answer's reserve: the rest of the reserve is free now."""
    ledger.reserve(task.account, NOTHING, 0.0)
    task.reserving = False


def expect_refund(task: TaskState, more: Amount) -> None:
    """The running calls of a task are expected to give back so much more."""
    for level in task.lineage:
        level.expected_refund += more


def record_answer(running: Running, usage: Usage) -> None:
    """A call has brought an answer: its task remembers how long it was, and the next plans learn from it."""
    request, final = running.request, running.request.terms.final
    status = request.task.status
    if final or status.latest_answer is None or not status.latest_answer.final:
        whole = usage.solution < running.grant.budget.solution
        status.latest_answer = LatestAnswer(usage.solution if whole else request.size.solution, final)
    running.record_usage(usage)


def expect_again(request: Request) -> None:
    """A call brought no answer: if its task had declared it as the final one, one is still to come."""
    if request.terms.final and request.declared:
        request.task.forecast.expect({request.terms.kind: 1})


def grant_of(allocation: Allocation, hold: Hold, held: Amount, waited: float) -> Grant:
    """The allocation as its call sees it."""
    headroom, request = allocation.headroom, allocation.headroom.request
    basis = Basis(
        allocation.why,
        allocation.numbers,
        allocation.plan,
        request.size.prompt,
        headroom.left,
        request.task.account.reserve,
        headroom.now,
        waited,
        headroom.speed,
    )
    return Grant(
        budget(allocation.thinking, allocation.solution),
        headroom.end if headroom.end < INFINITY else None,
        hold.id,
        request.terms.kind,
        request.task.policy.name,
        request.number,
        held,
        allocation.last,
        basis,
    )
