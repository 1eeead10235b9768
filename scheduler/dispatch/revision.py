"""Moves the limit of a call while it thinks.

A call that reaches its thinking limit could go on: refunds may have come since it was granted, calls may have
been called off. `Revision.extend` decides on it once more, on a snapshot in which it still waits and gives up
what it holds. If a right answer becomes clearly likelier it thinks on, under a further hold for the
difference, which includes another pass over prompt and thinking.

And a call may have to stop sooner: one that nobody had foreseen lacks what it holds. `Revision.reduce`
decides on it in the same way. What it holds stays held until it ends, since the engine was asked for that
much; but it ends sooner, and plans count at once with what will come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..allocation.allocator import WORTH_WAITING, Allocator
from ..allocation.decision import Allocation
from ..allocation.demand import expected
from ..allocation.grant import Grant
from ..allocation.request import Request, Running
from ..allocation.snapshot import Snapshot
from ..ledger.accounts import Hold
from ..ledger.amounts import NOTHING, Amount, Shortage
from ..ledger.ledger import Ledger
from .apply import expect_refund, grant_of, move_reserves, take_hold

WORTH_REDUCING = 0.75
"""A limit is reduced if the call then uses at most this part of what it would have thought."""


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that was made: its hold, and what the call had before."""

    hold: Hold
    grant: Grant
    expected: Amount
    read: int


class Revision:
    """Moves the limits of one dispatcher's calls; under the ledger's lock.

    Args:
        snapshot: takes a snapshot for a request at a moment.
    """

    def __init__(
        self, ledger: Ledger, allocator: Allocator, snapshot: Callable[[Request, float], Snapshot]
    ) -> None:
        self._ledger, self._allocator, self._snapshot = ledger, allocator, snapshot

    def extend(self, running: Running, used: int, now: float) -> Extension | None:
        """A call has thought up to its limit, `used` tokens; None: that is all."""
        request, task = running.request, running.request.task
        if running.done or running.reduced_to is not None or task.closing or task.account.closed:
            return None
        thinking, solution = running.grant.budget.thinking or 0, running.grant.budget.solution
        if request.thinking <= thinking:
            return None
        read = running.read + request.prompt + used
        asks = replace(request, solution=solution, read=read, on_exhausted="raise")
        over, held = _over(asks, used), running.held
        allocation = self._decide(running, asks, over, now)
        if allocation is None or allocation.last != running.grant.last:
            return None
        if allocation.solution < solution or allocation.thinking <= thinking:
            return None
        if request.curve.gain(used, allocation.thinking) <= WORTH_WAITING:
            return None
        move_reserves(self._ledger, asks, allocation.headroom.moves)
        hold = take_hold(self._ledger, allocation, allocation.hold - held, running.hold)
        if isinstance(hold, Shortage):
            return None
        extension = Extension(hold, running.grant, running.expected, running.read)
        grant = grant_of(allocation, running.hold, allocation.hold, 0.0)
        likely = (expected(asks, allocation.thinking, solution) + over).min(allocation.hold)
        _set(running, [*running.extensions, hold], grant, likely, read)
        return extension

    def reduce(self, running: Running, now: float) -> bool:
        """Another call lacks what it holds. Returns whether its limit is lower now (`Running.reduced_to`).

        A call that was extended has shown that it needs its tokens: it keeps them.
        """
        request, limit, solution = running.request, running.limit, running.grant.budget.solution
        if running.done or running.extensions or running.grant.last or not limit:
            return False
        if request.on_reduced is None:
            return False
        asks = replace(request, thinking=limit, solution=solution, on_exhausted="raise")
        allocation = self._decide(running, asks, NOTHING, now)
        if allocation is None or allocation.last or allocation.solution < solution:
            return False
        thinking, curve = allocation.thinking, request.curve
        if curve.used(thinking) > WORTH_REDUCING * curve.used(limit):
            return False
        move_reserves(self._ledger, asks, allocation.headroom.moves)
        before, likely = running.expected, expected(asks, thinking, solution)
        running.reduced_to, running.expected = thinking, likely.min(before)
        expect_refund(request.task, before - running.expected)
        return True

    def drop(self, running: Running, extension: Extension) -> None:
        """The extension can't be had after all: the call keeps what it had."""
        if running.done:
            return
        holds = [hold for hold in running.extensions if hold is not extension.hold]
        _set(running, holds, extension.grant, extension.expected, extension.read)
        self._ledger.refund(extension.hold)

    def _decide(self, running: Running, asks: Request, over: Amount, now: float) -> Allocation | None:
        """What it would get if it waited now; None: nothing."""
        snapshot = self._snapshot(asks, now).as_if_waiting(asks, running, over)
        outcome = self._allocator.decide(snapshot).outcome
        return outcome if isinstance(outcome, Allocation) else None


def _over(asks: Request, used: int) -> Amount:
    """What it has used beyond what such a call uses on average: a plan counts with averages."""
    tokens = max(0, math.ceil(used - asks.curve.used(used)))
    return Amount(tokens, 0 if asks.price is None else math.ceil(tokens * asks.price.per_thinking_token))


def _set(running: Running, extensions: list[Hold], grant: Grant, likely: Amount, read: int) -> None:
    before = running.held - running.expected
    running.extensions, running.grant, running.expected, running.read = extensions, grant, likely, read
    expect_refund(running.request.task, running.held - running.expected - before)
