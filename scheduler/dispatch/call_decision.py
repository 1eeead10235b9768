"""One waiting call is decided on, and what was decided is written: a grant, a wait, or a refusal."""

from __future__ import annotations

from elastic_agent.errors import CapExceededError

from ..allocation.allocator import Allocator
from ..allocation.decision import Allocation, Refusal, Wait
from ..allocation.demand import expected
from ..allocation.request import Outcome, Request, Running
from ..latency.slack import RemainingWork
from ..ledger.amounts import Shortage
from ..ledger.ledger import Ledger
from ..runlog.recorder import Recorder
from .apply import expect_refund, grant_of, move_reserves, release_reserve, take_hold
from .revision import Revision
from .running_calls import RunningCalls


class CallDecision:
    """See the module; under the ledger's lock.

    Args:
        allocator: decides.
        running: where a granted call goes.
        revision: makes room for a call that lacks what earlier calls hold.
    """

    def __init__(
        self,
        ledger: Ledger,
        record: Recorder,
        allocator: Allocator,
        running: RunningCalls,
        revision: Revision,
    ) -> None:
        self._ledger, self._record, self._allocator = ledger, record, allocator
        self._running, self._revision = running, revision

    def decide(self, request: Request, now: float) -> Outcome | Wait:
        """The running call, the error, or what it waits for."""
        try:
            found = self._allocate(request, now)
            lacks = isinstance(found, Wait) or (isinstance(found, Allocation) and found.short)
            if lacks and self._revision.make_room(request, now):
                found = self._allocate(request, now)
            if isinstance(found, Allocation):
                return self._grant(found)
            if isinstance(found, Refusal):
                raise found.error()
        except Exception as error:  # a policy's mistake belongs to the call it was made for, too
            self._record.refused(request, error, now)
            return error
        if request.queue.retry_at is None:
            self._record.waiting(request, found.why, now)
        request.queue.retry_at = found.until
        return found

    def _allocate(self, request: Request, now: float) -> Allocation | Wait | Refusal:
        decision = self._allocator.decide(self._running.snapshot(request, now))
        move_reserves(self._ledger, request, decision.moves)
        return decision.outcome

    def _grant(self, allocation: Allocation) -> Running:
        """Take the hold, for exactly what goes on the wire."""
        request, now = allocation.headroom.request, allocation.headroom.now
        task, amount = request.task, allocation.hold
        hold = take_hold(self._ledger, allocation, amount)
        if isinstance(hold, Shortage):
            raise CapExceededError(
                f"task {task.name!r}: no room for {hold.needed} {hold.unit} on {hold.account}",
                needed={hold.unit: hold.needed},
                available={hold.unit: hold.available},
            )
        if allocation.last:
            release_reserve(self._ledger, task)
        likely = expected(request, allocation.thinking, allocation.solution)
        for level in task.lineage:
            level.status.admitted = True
        expect_refund(task, amount - likely)
        task.forecast.started(request.terms.kind)
        grant, rest = grant_of(allocation, hold, amount, now - request.queue.arrived), allocation.rest
        if allocation.last:
            rest = RemainingWork(allocation.solution, prompt=request.size.prompt)
        running = Running(request, grant, hold, likely, rest, now)
        self._running.start(running, now)
        return running
