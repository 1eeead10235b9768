"""The granted calls of one dispatcher that are not over: how each starts, what it is expected to use, how it
ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from elastic_agent.usage import Usage

from ..allocation.request import Request, Running
from ..allocation.snapshot import Snapshot, take_snapshot
from ..allocation.task_state import TaskState
from ..ledger.accounts import Hold
from ..ledger.amounts import NOTHING, Amount
from ..ledger.ledger import Ledger
from ..policies.pacing import Pacing
from ..runlog.recorder import Recorder
from .apply import expect_again, expect_refund, record_answer


class RunningCalls:
    """See the module; under the ledger's lock.

    Args:
        pacing: the price of the pool that all tasks share; None: there is none.

    Attributes:
        hold_ended: called with every hold that has ended, under the lock: it must only pass it on.
    """

    def __init__(self, ledger: Ledger, record: Recorder, pacing: Pacing | None) -> None:
        self._ledger, self._record, self._pacing = ledger, record, pacing
        self.hold_ended: Callable[[Hold], None] = lambda hold: None
        self._by_hold: dict[str, Running] = {}  # by their first hold
        self._by_task: dict[TaskState, dict[str, Running]] = {}
        self._enclosing: Counter[str] = Counter()  # by hold: the waiting calls that it can't end before

    def __iter__(self) -> Iterator[Running]:
        return iter(self._by_hold.values())

    def get(self, hold: str) -> Running | None:
        """The call with this first hold; None: it is over, or the hold is an extension."""
        return self._by_hold.get(hold)

    def of(self, task: TaskState) -> list[Running]:
        """The calls of one task, those of its sub-tasks not included."""
        return list(self._by_task.get(task, {}).values())

    def snapshot(self, request: Request, now: float) -> Snapshot:
        """What a decision on a call rests on. Calls that are open around waiting calls can free nothing."""
        blocked = list(filter(None, map(self._by_hold.get, self._enclosing)))
        return take_snapshot(request, now, self._pacing, blocked)

    # Calls that are open around waiting calls

    def enclose(self, holds: Iterable[str]) -> None:
        """A call waits that the calls with these holds can't end before."""
        self._enclosing.update(holds)

    def release(self, holds: Iterable[str]) -> None:
        """That call waits no longer."""
        for hold in holds:
            self._enclosing[hold] -= 1
            if self._enclosing[hold] <= 0:
                del self._enclosing[hold]

    def is_enclosing(self, hold: str) -> bool:
        """Whether a call waits that the call with this hold can't end before."""
        return hold in self._enclosing

    # The life of a call

    def start(self, running: Running, now: float) -> None:
        """A call was granted."""
        request, hold = running.request, running.hold.id
        self._by_hold[hold] = running
        self._by_task.setdefault(request.task, {})[hold] = running
        self.pace(running, running.expected, now)
        if request.endpoint is not None:
            request.endpoint.started(running)
        self._record.granted("grant", running, now)

    def settle(
        self,
        running: Running,
        actual: Amount | None,
        now: float,
        *,
        answered: bool,
        used: Mapping[str, Any] | None = None,
        learn: Usage | None = None,
    ) -> None:
        """A call is over; see `Dispatcher.settle`."""
        request, task, held = running.request, running.request.task, running.held
        running.done, answered = True, answered and actual is not None
        running.slot.decided_at_progress = running.slot.progress
        if learn is not None:
            record_answer(running, learn)
        self._forget(running)
        if request.endpoint is not None:
            request.endpoint.ended(running, now)
        task.forecast.ended()
        expect_refund(task, running.expected - held)
        charged = self._end_holds(running, actual)
        self.pace(running, charged, now)
        if running.grant.last:
            task.status.answered |= answered
            task.reserving = not (answered and request.terms.final)  # else what comes back is kept again
        if not answered:
            expect_again(request)
        self._record.settled(running, now, used=used or {}, actual=actual, charged=charged, answered=answered)

    def expire(self, running: Running, now: float) -> None:
        """Nobody waits for a call any more, and what became of it is not known: all it holds is charged."""
        for hold in running.holds:
            self._ledger.expire(hold)
        self.settle(running, running.held, now, answered=False)

    def pace(self, running: Running, amount: Amount, now: float) -> None:
        """A call will probably use, or has used, so much: tell the pool, and keep its tasks' chances."""
        if self._pacing is None:
            return
        request, use = running.request, self._pacing.use(amount)
        self._pacing.record_call(request.task.lineage[-1], running.paced, use, now, done=running.done)
        unused = running.done and not use
        sure = 1.0 if unused else request.curve.p(running.limit) ** request.terms.weight
        for level in request.task.lineage:
            level.chance *= sure / running.success_chance
        running.paced, running.success_chance = use, sure

    # Inside

    def _forget(self, running: Running) -> None:
        task, hold = running.request.task, running.hold.id
        del self._by_hold[hold], self._by_task[task][hold]
        if not self._by_task[task]:
            del self._by_task[task]

    def _end_holds(self, running: Running, actual: Amount | None) -> Amount:
        """End what a call holds; what was used is charged to the first hold, and beyond it to extensions."""
        first, holds = running.hold, running.holds
        if actual is None:
            for hold in holds:
                self._ledger.refund(hold)
        else:
            for hold in running.extensions:
                part = actual.excess_over(first.amount).min(hold.amount)
                self._ledger.settle(hold, part)
                actual -= part
            self._ledger.settle(first, actual)
        charged = NOTHING
        for hold in holds:
            self.hold_ended(hold)
            charged += hold.charged
        return charged
