"""Moves the thinking limit of a running call.

A call that reaches its thinking limit could go on: refunds may have come since it was granted, calls may have
been called off. `Revision.extend` decides on it once more, on a snapshot in which it still waits and gives up
what it holds. If a right answer becomes clearly likelier it thinks on, under a further hold for the
difference, which includes another pass over prompt and thinking.

And a call may have to stop sooner: one that nobody had foreseen lacks what it holds (`Revision.make_room`).
The running call is decided on in the same way. What it holds stays held until it ends, since the engine was
asked for that much; but it ends sooner, and plans count at once with what will come back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice

from ..allocation.allocator import WORTH_WAITING, Allocator
from ..allocation.call_terms import CallSize
from ..allocation.decision import Allocation
from ..allocation.demand import expected
from ..allocation.grant import Grant
from ..allocation.request import Request, Running
from ..ledger.accounts import Hold
from ..ledger.amounts import NOTHING, Amount, Shortage
from ..ledger.ledger import Ledger
from ..runlog.recorder import Recorder
from .apply import expect_refund, grant_of, move_reserves, take_hold
from .running_calls import RunningCalls

WORTH_REDUCING = 0.75
"""A limit is reduced if the call then uses at most this part of what it would have thought."""

LOOKED_AT = 8
"""Running calls that are decided on again for one that lacks what they hold; the latest ones."""


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that was made: its hold, and what the call had before."""

    hold: Hold
    grant: Grant
    expected: Amount
    read: int


class Revision:
    """Extends and reduces the thinking limits of running calls; under the ledger's lock."""

    def __init__(self, ledger: Ledger, record: Recorder, allocator: Allocator, running: RunningCalls) -> None:
        self._ledger, self._record, self._allocator, self._running = ledger, record, allocator, running

    def extend(self, running: Running, used: int, now: float) -> Extension | None:
        """The extension of a call that has thought up to its limit, `used` tokens; None: there is no more."""
        self._record.limit_reached(running, used, now)
        extension = self._extend(running, used, now)
        if extension is not None:
            self._running.pace(running, running.expected, now)
            self._record.granted("extended", running, now, used=used)
        return extension

    def drop(self, running: Running, extension: Extension, now: float) -> None:
        """Take an extension back that a durable ledger can't hold: the call keeps what it had before."""
        if not running.done:
            holds = [hold for hold in running.extensions if hold is not extension.hold]
            _set(running, holds, extension.grant, extension.expected, extension.read)
            self._ledger.refund(extension.hold)
        self._running.pace(running, running.expected, now)
        self._record.granted("extension_dropped", running, now, now=now)

    def make_room(self, request: Request, now: float) -> bool:
        """A waiting call lacks tokens. Look, once, at running calls of its task and of those around it: which
        would get less if they came now?

        Returns:
            whether the limit of any of them is lower now.
        """
        if request.queue.made_room:
            return False
        request.queue.made_room, lowered = True, False
        for hold in list(islice(reversed(request.task.lineage[-1].account.live), LOOKED_AT)):
            running = self._running.get(hold)
            if running is None or running.started >= request.queue.arrived:
                continue
            before = running.limit
            if self._running.is_enclosing(hold) or not self._reduce(running, now):
                continue
            lowered = True
            self._running.pace(running, running.expected, now)
            why = (
                f"call {request.number} ({request.terms.kind}) of {request.task.name!r} came and lacks tokens"
            )
            self._record.granted("reduced", running, now, why, before=before)
            assert running.request.on_reduced is not None
            running.request.on_reduced()
        return lowered

    def _extend(self, running: Running, used: int, now: float) -> Extension | None:
        request, task = running.request, running.request.task
        if running.reduced_to is not None or task.closed:
            return None
        thinking, solution = running.grant.budget.thinking or 0, running.grant.budget.solution
        if request.size.thinking <= thinking:
            return None
        read = running.read + request.size.prompt + used
        asks = _asking(request, replace(request.size, solution=solution, read=read))
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

    def _reduce(self, running: Running, now: float) -> bool:
        """Another call lacks what this one holds. Returns whether its limit is lower (`Running.reduced_to`).

        A call that was extended has shown that it needs its tokens: it keeps them.
        """
        request, limit, solution = running.request, running.limit, running.grant.budget.solution
        if running.done or running.extensions or running.grant.last or not limit:
            return False
        if request.on_reduced is None:
            return False
        asks = _asking(request, replace(request.size, thinking=limit, solution=solution))
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

    def _decide(self, running: Running, asks: Request, over: Amount, now: float) -> Allocation | None:
        """What the running call would get if it were still waiting; None: nothing."""
        snapshot = self._running.snapshot(asks, now).as_if_waiting(asks, running, over)
        outcome = self._allocator.decide(snapshot).outcome
        return outcome if isinstance(outcome, Allocation) else None


def _asking(request: Request, size: CallSize) -> Request:
    """A running call's request as it would be now: for this size, no less, at once."""
    return replace(request, size=size, terms=replace(request.terms, on_exhausted="raise"))


def _over(asks: Request, used: int) -> Amount:
    """What the call has used beyond the average of such calls: plans count with averages."""
    tokens, price = max(0, math.ceil(used - asks.curve.used(used))), asks.model.price
    return Amount(tokens, 0 if price is None else math.ceil(tokens * price.per_thinking_token))


def _set(running: Running, extensions: list[Hold], grant: Grant, likely: Amount, read: int) -> None:
    before = running.held - running.expected
    running.extensions, running.grant, running.expected, running.read = extensions, grant, likely, read
    expect_refund(running.request.task, running.held - running.expected - before)
