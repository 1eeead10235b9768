"""The calls that wait, and in which order they are decided on.

`run_pass` looks at the head of each task's queue, in the order of arrival. Calls that arrive in the same
moment are all queued before the first decision, so a fan-out is weighed as a whole.

A call waits only while a running call could free what it lacks, and every running call ends. Calls whose own
consumer waits for a queued call (a stream that is open around it) can't end before that one: nobody waits for
them, and the inner call goes first. So nothing waits for ever. Where the head of one task waits for tokens of
an account, later calls on that account wait behind it: a large call is not overtaken for ever by small ones.

On an endpoint that runs a limited number of calls at once, heads of all tasks take turns instead
(`elastic_agent.scheduler.queueing.endpoint`), and are decided on, and hold tokens, only when it is their
turn.
"""

from __future__ import annotations

from itertools import count

from elastic_agent.errors import DeadlineError

from ..allocation.decision import Wait
from ..allocation.request import CallQueue, Outcome, Request
from ..allocation.task_state import TaskState
from ..latency.slack import SAFETY
from ..ledger.inherited_caps import inherited_deadline
from ..ledger.ledger import Ledger
from ..queueing.wait_queue import Queue
from ..runlog.recorder import Recorder
from .apply import expect_again
from .call_decision import CallDecision
from .running_calls import RunningCalls

FIRST = -1_000_000
"""The rank of calls that go before all others of their task."""


class DecisionLoop:
    """See the module; under the ledger's lock.

    Args:
        running: the granted calls.
        decision: decides on one call.
    """

    def __init__(
        self, ledger: Ledger, record: Recorder, running: RunningCalls, decision: CallDecision
    ) -> None:
        self._ledger, self._record, self._running, self._decision = ledger, record, running, decision
        self._queues: dict[str, Queue] = {}  # by root account
        self._limited: dict[CallQueue, None] = {}  # endpoints whose calls take turns
        self._orders = count(1)

    @property
    def idle(self) -> bool:
        """No call waits, and none runs where calls take turns: there is nothing to decide."""
        return not (self._queues or self._limited)

    # What arrives, and leaves

    def enqueue(self, request: Request, now: float) -> None:
        """A call arrives; `run_pass` decides on it."""
        task, terms = request.task, request.terms
        again = request.number > 0
        if not again:
            task.status.calls += 1
            request.number = task.status.calls
        self._record.asked(request, now, again)
        request.curve = request.model.curves.curve(terms.kind)
        if again and request.declared and not terms.final:  # as declared as it was before
            task.forecast.expect({terms.kind: 1})
        request.queue.order, request.queue.arrived = next(self._orders), now
        request.declared = task.forecast.arrived(terms.kind)
        endpoint = request.endpoint
        if endpoint is not None and not endpoint.is_limited(request):
            endpoint = None  # its calls take no turns
        if endpoint is not None and self._is_full(request, endpoint, now):
            return
        if request.enclosing_holds:
            self._running.enclose(request.enclosing_holds)
            self._wake_around(request)
        # Final calls go first, because their tokens are reserved; so do nested calls, because the call
        # around them can't finish before them.
        rank = FIRST if terms.final or request.enclosing_holds else terms.priority
        head = self._queues.setdefault(task.account.path[-1].id, Queue()).push(rank, request)
        if head and endpoint is not None:
            endpoint.mark_ready(request)  # whoever is decided on first in this moment sees all of them

    def resolve(self, request: Request, outcome: Outcome, *, tell: bool = True) -> None:
        """A waiting call has its outcome, and leaves."""
        request.outcome = outcome
        if (queue := self._queue_of(request.task)) is not None:
            queue.leave(request)
        if request.endpoint is not None:
            request.endpoint.leave(request)
        request.task.forecast.left(request.terms.kind)
        if isinstance(outcome, Exception):
            expect_again(request)
            for level in request.task.lineage:
                level.status.cut_short = True
        if request.enclosing_holds:
            self._running.release(request.enclosing_holds)
        if tell:
            request.on_outcome()

    def waiting(self, task: TaskState) -> list[Request]:
        """The calls of one task that wait."""
        queue = self._queue_of(task)
        return [] if queue is None else list(queue.waiting(task.account.id))

    # The pass

    def run_pass(self, root: str, account: str, now: float) -> None:
        """Decide what can be decided; see `Dispatcher.run_pass`. All are ids of accounts."""
        if root not in self._queues and not any(endpoint.queue for endpoint in self._limited):
            for endpoint in self._limited:  # nobody waits: nothing to decide, and nothing to write down
                endpoint.update_preemption()
            return
        self._record.run_pass(root, account, now)
        at, queue = self._ledger.accounts.get(account), self._queues.get(root)
        if queue is not None and at is not None:  # None: the account has ended
            queue.wake(at.path)
            queue.look(account)
        self._decide_tree(root, now)
        for endpoint in list(self._limited):
            while (turn := endpoint.next_ready(now)) is not None:
                self._take_turn(turn, now)
            endpoint.update_preemption()
            if endpoint.idle:
                del self._limited[endpoint]

    def _decide_tree(self, root: str, now: float) -> None:
        """Decide on those that are to be looked at in one tree; offer those that take turns."""
        queue = self._queues.get(root)
        if queue is None:
            return
        while (request := queue.pop()) is not None:
            endpoint = request.endpoint
            if endpoint is None or not endpoint.is_limited(request):
                self._decide(queue, request, now)
            elif (late := self._out_of_time(request, endpoint, now)) is not None:
                self._record.refused(request, late, now)
                self.resolve(request, late)
            else:
                endpoint.mark_ready(request)
        if not queue:
            self._queues.pop(root, None)

    def _take_turn(self, request: Request, now: float) -> None:
        """Decide on a call whose turn it is; then the next of its task can be offered."""
        queue = self._queue_of(request.task)
        if queue is not None and queue.first(request):  # else another one of its task goes before it by now
            self._decide(queue, request, now)
            self._decide_tree(request.task.account.path[-1].id, now)

    def _decide(self, queue: Queue, request: Request, now: float) -> None:
        """Grant or refuse it, or keep it with the account on which it lacks something."""
        account = request.task.account
        first = request.terms.final or bool(request.enclosing_holds)
        where = None if first else queue.ahead(request)
        if where is None:
            outcome = self._decision.decide(request, now)
            if not isinstance(outcome, Wait):
                self.resolve(request, outcome)
                queue.wake(account.path)
                return
            where = outcome.account
        if request.endpoint is not None:
            request.endpoint.mark_blocked(request)
        queue.keep(request, where, *((account.id,) if first and account.id != where else ()))

    # Inside

    def _queue_of(self, task: TaskState) -> Queue | None:
        return self._queues.get(task.account.path[-1].id)

    def _wake_around(self, request: Request) -> None:
        """Calls around this one can give nothing back any more: who waits for that is looked at again."""
        for hold in request.enclosing_holds:
            if (running := self._running.get(hold)) is not None:
                task = running.request.task
                if (queue := self._queue_of(task)) is not None:
                    queue.wake(task.account.path)

    def _is_full(self, request: Request, endpoint: CallQueue, now: float) -> bool:
        """Where calls take turns: give it a place in the queue, or refuse it."""
        task = request.task
        busy = None if request.terms.final else endpoint.full(task.key)
        if busy is None:
            endpoint.enter(request, inherited_deadline(task.account, final=True), task.account.span)
            self._limited[endpoint] = None
            return False
        self._record.refused(request, busy, now)
        self.resolve(request, busy, tell=False)
        return True

    def _out_of_time(self, request: Request, endpoint: CallQueue, now: float) -> DeadlineError | None:
        """The error for a call whose time is up before its turn has come, or None."""
        task = request.task
        end = inherited_deadline(task.account, final=request.terms.final)
        request.queue.retry_at = min(end - SAFETY, endpoint.look_again(request, now))
        if now < end - SAFETY - 1e-6:
            return None
        speed, least = request.model.latency.speed(), request.least_solution(task.final_answer.size)
        takes = SAFETY + (0.0 if speed is None else speed.answer(least, request.size.fresh))
        return DeadlineError(
            f"task {task.name!r}, call {request.number} ({request.terms.kind}): it has waited for its turn "
            f"for {now - request.queue.arrived:.3f} s, and no time is left for an answer of {least} tokens, "
            f"which takes {takes:.3f} s; raise seconds= or make fewer calls",
            needed={"seconds": takes},
            available={"seconds": max(0.0, end - now)},
        )
