"""Taking the hold of a decision, for exactly what goes on the wire, and moving the limit while a call thinks.

A call that reaches its thinking limit could go on: refunds may have come since it was granted, calls may have
been called off. `Raiser` decides on it once more, as if it came now and gave up what it holds: what has
changed since is all in the books. If a right answer becomes clearly likelier it thinks on, under a further
hold for the difference, which includes another pass over prompt and thinking.

And a call may have to stop sooner: one that nobody had foreseen lacks what it holds. It is decided on in the
same way. What it holds stays held until it ends, since the engine was asked for that much; but it ends
sooner, and plans count at once with what will come back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from elastic_agent.errors import CapExceededError, DeadlineError

from ..allocation.allocator import WORTH_WAITING, Allocator
from ..allocation.demand import expected
from ..allocation.grant import Basis, Grant, budget
from ..allocation.request import Request, Running, TaskState
from ..allocation.snapshot import Allocation, Snapshot, Wait
from ..ledger.accounts import Hold
from ..ledger.amounts import INFINITY, NOTHING, Amount, Shortage
from ..ledger.ledger import Ledger


def take(
    ledger: Ledger, snapshot: Snapshot, allocation: Allocation, amount: Amount, first: Hold | None = None
) -> Hold | Shortage:
    """The hold of a decision; before it, the final answer's reserve is brought to what it should be.

    Args:
        amount: what to hold.
        first: the call's first hold, if this is a further one.
    """
    request, speed = snapshot.request, snapshot.speed
    account = request.task.account
    if snapshot.lacking is not NOTHING and not allocation.last:
        ledger.reserve(account, account.reserve + snapshot.lacking)
    until = hard = snapshot.end_of(allocation.last)
    if hard < INFINITY and speed is not None:
        passes = 2 if allocation.thinking else 1
        takes = speed.answer(allocation.thinking + allocation.solution, request.fresh, passes)
        until = min(hard, snapshot.now + takes)
    return ledger.hold(account, amount, until=until, now=snapshot.now, final=allocation.last, first=first)


def grant_of(snapshot: Snapshot, allocation: Allocation, hold: Hold, held: Amount, waited: float) -> Grant:
    """The decision as its call sees it."""
    request = snapshot.request
    return Grant(
        budget(allocation.thinking, allocation.solution),
        snapshot.end if snapshot.end < INFINITY else None,
        hold.id,
        request.kind,
        request.task.policy.name,
        request.number,
        held,
        allocation.last,
        Basis(
            allocation,
            request.prompt,
            snapshot.left,
            request.task.account.reserve,
            snapshot.now,
            waited,
            snapshot.speed,
        ),
    )


WORTH_LOWERING = 0.75
"""A limit is lowered if the call then uses at most this part of what it would have thought."""


@dataclass(frozen=True, slots=True)
class Extension:
    """A raise that was made: its hold, and what the call had before."""

    hold: Hold
    grant: Grant
    expected: Amount
    read: int


class Revision:
    """Moves the limits of one dispatcher's calls; under the ledger's lock."""

    def __init__(self, ledger: Ledger, decider: Allocator) -> None:
        self._ledger, self._decider = ledger, decider

    def more(self, running: Running, used: int, now: float) -> Extension | None:
        """A call has thought up to its limit, `used` tokens; None: that is all."""
        request, task = running.request, running.request.task
        if running.done or running.lowered is not None or task.closing or task.account.closed:
            return None
        thinking, solution = running.grant.budget.thinking or 0, running.grant.budget.solution
        if request.thinking <= thinking:
            return None
        read = running.read + request.prompt + used
        asks = replace(request, solution=solution, read=read, on_exhausted="raise")
        over = _over(asks, used)
        held = running.held
        found = self._decide(running, asks, held, over, now)
        if found is None:
            return None
        snapshot, allocation = found
        if allocation.solution < solution or allocation.last != running.grant.last:
            return None
        if allocation.thinking <= thinking:
            return None
        if request.curve.gain(used, allocation.thinking) <= WORTH_WAITING:
            return None
        amount = asks.worst(allocation.thinking, solution)
        hold = take(self._ledger, snapshot, allocation, amount - held, running.hold)
        if isinstance(hold, Shortage):
            return None
        raised = Extension(hold, running.grant, running.expected, running.read)
        grant = grant_of(snapshot, allocation, running.hold, amount, 0.0)
        likely = (expected(asks, allocation.thinking, solution) + over).min(amount)
        _set(running, [*running.raises, hold], grant, likely, read)
        return raised

    def less(self, running: Running, now: float) -> bool:
        """Somebody lacks what it holds. Returns whether its limit is lower now (`Running.lowered`).

        A call that was raised has shown that it needs its tokens: it keeps them.
        """
        request, limit, solution = running.request, running.limit, running.grant.budget.solution
        if running.done or running.raises or running.grant.last or request.lower is None or not limit:
            return False
        asks = replace(request, thinking=limit, solution=solution, on_exhausted="raise")
        found = self._decide(running, asks, running.held, NOTHING, now)
        if found is None or found[1].last or found[1].solution < solution:
            return False
        thinking, curve = found[1].thinking, request.curve
        if curve.used(thinking) > WORTH_LOWERING * curve.used(limit):
            return False
        before, likely = running.expected, expected(asks, thinking, solution)
        running.lowered, running.expected = thinking, likely.min(before)
        _give_back(request.task, before - running.expected)
        return True

    def drop(self, running: Running, raised: Extension) -> None:
        """The raise can't be had after all: the call keeps what it had."""
        if running.done:
            return
        holds = [hold for hold in running.raises if hold is not raised.hold]
        _set(running, holds, raised.grant, raised.expected, raised.read)
        self._ledger.refund(raised.hold)

    def _decide(
        self, running: Running, asks: Request, held: Amount, over: Amount, now: float
    ) -> tuple[Snapshot, Allocation] | None:
        """What it would get if it waited now; None: nothing."""
        task = asks.task
        back = held - running.expected + over
        task.forecast.again(asks.kind)
        _give_back(task, NOTHING - back)
        _count(task, 1 / running.sure)
        try:
            return self._decider.decide(asks, now, held)
        except (Wait, CapExceededError, DeadlineError):
            return None
        finally:
            _count(task, running.sure)
            _give_back(task, back)
            task.forecast.resumed(asks.kind)


def _over(asks: Request, used: int) -> Amount:
    """What it has used beyond what such a call uses on average: a plan counts with averages."""
    tokens = max(0, math.ceil(used - asks.curve.used(used)))
    return Amount(tokens, 0 if asks.price is None else math.ceil(tokens * asks.price.per_thinking_token))


def _set(running: Running, raises: list[Hold], grant: Grant, likely: Amount, read: int) -> None:
    before = running.held - running.expected
    running.raises, running.grant, running.expected, running.read = raises, grant, likely, read
    _give_back(running.request.task, running.held - running.expected - before)


def _count(task: TaskState, chance: float) -> None:
    """Calls made are so much likelier to be all right."""
    for level in task.lineage:
        level.chance *= chance


def _give_back(task: TaskState, amount: Amount) -> None:
    """The running calls of a task are expected to give back so much more."""
    for level in task.lineage:
        level.back_tokens += amount.tokens
        level.back_nano += amount.nano
