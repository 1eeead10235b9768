"""The dispatcher: calls ask here for tokens, and are granted, made to wait, or refused. No clock, no asyncio.

A call that arrives is queued (`submit`); `run_pass` looks at the head of each task's queue, in the order of
arrival, and decides (`elastic_agent.scheduler.allocation.allocator`). It runs when a call arrives and
whenever something comes back. Calls that arrive in the same moment are all queued before the first decision,
so a fan-out is weighed as a whole.

A call waits only while a running call could free what it lacks, and every running call ends. Calls whose own
consumer waits for a queued call (a stream that is open around it) can't end before that one: nobody waits for
them, and the inner call goes first. So nothing waits for ever. Where the head of one task waits for tokens of
an account, later calls on that account wait behind it: a large call is not overtaken for ever by small ones.

On an endpoint that runs a limited number of calls at once, heads of all tasks take turns instead
(`elastic_agent.scheduler.queueing.endpoint`), and are decided on, and hold tokens, only when it is their
turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count, islice
from typing import Any

from elastic_agent.errors import CapExceededError, DeadlineError, TaskClosedError
from elastic_agent.usage import Usage

from ..allocation.allocator import Allocator
from ..allocation.decision import Allocation, Refusal, Wait
from ..allocation.degrade import too_small
from ..allocation.demand import expected
from ..allocation.request import CallQueue, Outcome, Request, Running, TaskState
from ..allocation.snapshot import Snapshot, take_snapshot
from ..latency.slack import SAFETY, RemainingWork, Timing
from ..ledger.accounts import Account, Hold
from ..ledger.amounts import INFINITY, Amount, Shortage
from ..ledger.ledger import Ledger
from ..policies.pacing import Pacing
from ..queueing.endpoint import Endpoint
from ..queueing.wait_queue import Queue
from ..runlog.events import Sink
from ..runlog.recorder import Recorder
from .apply import expect_refund, grant_of, move_reserves, record_answer, release_reserve, take_hold
from .revision import Extension, Revision

LOOKED_AT = 8
"""Running calls that are decided on again for one that lacks what they hold; the latest ones."""


class Dispatcher:
    """Grants, for all tasks of one ledger. Thread-safe through the ledger's lock.

    Args:
        files: where everything goes that a replay needs; see `elastic_agent.scheduler.runlog.recorder`.

    Attributes:
        pacing: the price of the pool that all tasks share; None: there is none.
        ended: told of every hold that has ended, under the lock: it must only pass it on.
        request_pass: called with an account to which something came back, and the time, when calls wait: it
            has `run_pass` run for them. At once, unless somebody sets it to do so soon (an event loop), or
            not at all (a replay, whose log says when).
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        timing: Timing | None = None,
        files: Sequence[Sink] = (),
        pacing: Pacing | None = None,
    ) -> None:
        self.ledger = ledger or Ledger()
        self.timing = timing or Timing()
        self.record = Recorder(self.ledger, self.timing, files, pacing)
        self.ended: Callable[[Hold], None] = lambda hold: None
        self.request_pass: Callable[[Account, float], None] = self.run_pass
        self._blocked_holds: Counter[str] = Counter()
        self.pacing = pacing
        self._allocator = Allocator(self.timing)
        self._revision = Revision(self.ledger, self._allocator, self._snapshot)
        self._running: dict[str, Running] = {}  # by their first hold
        self._queues: dict[str, Queue] = {}  # by root account
        self._orders = count(1)
        self._task_ids = count(1)
        self._admitted: dict[TaskState, Endpoint] = {}  # by task: the endpoint that has promised it answers
        self._limited: dict[CallQueue, None] = {}  # endpoints whose calls take turns

    # Calls

    def submit(self, request: Request, now: float) -> None:
        """Queue a call; decide with `run_pass`.

        Raises:
            TaskClosedError: its task has ended.
        """
        with self.ledger.lock:
            task = request.task
            if task.closing or task.account.closed:
                raise _ended(task)
            self.record.step += 1
            again = request.number > 0
            if not again:
                task.calls += 1
                request.number = task.calls
            if task.emit is not None:
                self.record.asked(request, now, again)
            request.curve = request.curves.curve(request.kind)
            if again and request.declared and not request.final:  # as declared as it was before
                task.forecast.expect({request.kind: 1})
            request.order, request.arrived = next(self._orders), now
            request.declared = task.forecast.arrived(request.kind)
            if self._full(request, now):
                return
            if request.enclosing_holds:
                self._blocked_holds.update(request.enclosing_holds)
                self._wake_around(request)
            # Final calls go first, because their tokens are reserved; so do nested calls, because the call
            # around them can't finish before them.
            rank = request.priority if not (request.final or request.enclosing_holds) else -1_000_000
            head = self._queues.setdefault(task.account.path[-1].id, Queue()).push(rank, request)
            endpoint = request.endpoint
            if head and endpoint is not None and endpoint.is_limited(request):
                endpoint.mark_ready(request)  # whoever is decided on first in this moment sees all of them

    def run_pass(self, account: Account, now: float) -> None:
        """Decide what can be decided: on calls that have come, on those that lack something on this account
        or above it, and on endpoints where calls take turns.
        """
        self.run_pass_at(account.path[-1].id, account.id, now)

    def run_pass_at(self, root: str, account: str, now: float) -> None:
        """The same by the ids of the account and of the one at its root."""
        with self.ledger.lock:
            if root in self._queues or any(endpoint.queue for endpoint in self._limited):
                self.record.step += 1
                if self.record.files:
                    self.record.run_pass(root, account, now)
                self._decide_after(self.ledger.accounts.get(account), root, now)
            else:  # nobody waits: there is nothing to decide, and nothing to write down
                for endpoint in self._limited:
                    endpoint.update_preemption()

    def _came_back(self, account: Account, now: float) -> None:
        """A call has left: other calls are decided on in a pass of their own, not while this one ends."""
        if self._queues or self._limited:
            self.request_pass(account, now)

    def _decide_after(self, account: Account | None, root: str, now: float) -> None:
        """Something has happened on an account (None: it has ended), in the tree of this root."""
        queue = self._queues.get(root)
        if queue is not None and account is not None:
            queue.wake(account.path)
            queue.look(account.id)
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
            elif (late := self._out_of_time(request, now)) is not None:
                self._resolve(request, late)
            else:
                endpoint.mark_ready(request)
        if not queue:
            self._queues.pop(root, None)

    def _take_turn(self, request: Request, now: float) -> None:
        """Decide on a call whose turn it is; then the next of its task can be offered."""
        root = request.task.account.path[-1].id
        queue = self._queues.get(root)
        if queue is not None and queue.first(request):  # else another one of its task goes before it by now
            self._decide(queue, request, now)
            self._decide_tree(root, now)

    def _decide(self, queue: Queue, request: Request, now: float) -> None:
        """Grant or refuse it, or keep it with the account on which it lacks something."""
        endpoint, account = request.endpoint, request.task.account
        first = request.final or bool(request.enclosing_holds)
        where = None if first else queue.ahead(request)
        if where is None:
            outcome = self._try(request, now)
            if not isinstance(outcome, Wait):
                self._resolve(request, outcome)
                queue.wake(account.path)
                return
            where = outcome.account
        if endpoint is not None:
            endpoint.mark_blocked(request)
        queue.keep(request, where, *((account.id,) if first and account.id != where else ()))

    def _wake_around(self, request: Request) -> None:
        """Calls around this one can give nothing back any more: who waits for that is looked at again."""
        for hold in request.enclosing_holds:
            if (running := self._running.get(hold)) is not None:
                path = running.request.task.account.path
                if (queue := self._queues.get(path[-1].id)) is not None:
                    queue.wake(path)

    def withdraw(self, request: Request, now: float) -> None:
        """The caller has gone: a waiting call leaves, a granted one that was not sent is refunded."""
        with self.ledger.lock:
            if isinstance(request.outcome, Running):
                self.settle(request.outcome, None, now, answered=False)
            elif request.outcome is None:
                self.record.step += 1
                self._resolve(request, _ended(request.task), tell=False)
                self.record.call(request, "withdrawn", now, now=now)
                self._came_back(request.task.account, now)

    def settle(
        self,
        running: Running,
        actual: Amount | None,
        now: float,
        *,
        answered: bool = True,
        used: Mapping[str, Any] | None = None,
        learn: Usage | None = None,
    ) -> None:
        """A granted call is over. Later calls change nothing.

        Args:
            actual: what it used; None: it was never sent.
            answered: it brought an answer. A final call that did not puts the reserve back.
            used: for the log.
            learn: the plans of the next calls learn from it (`apply.record_answer`).
        """
        with self.ledger.lock:
            if running.done:
                return
            self.record.step += 1
            running.done, answered = True, answered and actual is not None
            running.slot.decided_at_progress = running.slot.progress
            if learn is not None:
                record_answer(running, learn)
            request, held = running.request, running.held
            task = request.task
            del task.running[running.hold.id], self._running[running.hold.id]
            if request.endpoint is not None:
                request.endpoint.ended(running, now)
            task.forecast.ended()
            expect_refund(task, running.expected - held)
            charged = self._end_holds(running, actual)
            self._pace(running, charged, now)
            if running.grant.last:
                task.answered |= answered
                task.reserving = not (answered and request.final)  # else what comes back is kept again
            if not answered:
                self._comes_again(request)
            if task.emit is not None:
                self.record.settled(
                    running, now, used=used or {}, actual=actual, charged=charged, answered=answered
                )
            self._came_back(task.account, now)

    def record_feedback(self, running: Running, right: bool, now: float) -> None:
        """Whether the answer of a call was right: what nobody but its user can know."""
        with self.ledger.lock:
            self.record.step += 1
            self.record.call(running.request, "feedback", now, correct=right, now=now)
            running.record_feedback(right)

    def extend(self, running: Running, used: int, now: float) -> Extension | None:
        """A running call has reached its thinking limit: extend the limit, if that is worth it by now.

        Args:
            used: its thinking tokens so far.

        Returns:
            the extension, which is in `running.grant` already; None: the call gets no more.
        """
        with self.ledger.lock:
            if running.done:
                return None
            self.record.step += 1
            self.record.call(running.request, "limit_reached", now, used=used, now=now)
            extension = self._revision.extend(running, used, now)
            if extension is not None:
                self._pace(running, running.expected, now)
                self.record.granted("extended", running, now, used=used)
            return extension

    def drop_extension(self, running: Running, extension: Extension, now: float) -> None:
        """A durable ledger has no room for an extension: the call keeps what it had."""
        with self.ledger.lock:
            self.record.step += 1
            self._revision.drop(running, extension)
            self._pace(running, running.expected, now)
            self.record.granted("extension_dropped", running, now, now=now)
            self._decide_after(running.request.task.account, running.request.task.account.path[-1].id, now)

    # Tasks

    def open(
        self,
        task: TaskState,
        now: float,
        endpoint: Endpoint | None = None,
        close: int = 1,
        *,
        expect: Mapping[str, int] | None = None,
        **about: Any,
    ) -> None:
        """A task opens: keep its reserve, or refuse if its caps alone show that they can't hold one answer.

        One that is refused has its account closed again.

        Args:
            endpoint: where its calls will probably run; `close`: tokens of that model's close.
            expect: calls to come, by kind.
            about: more to say of it in the log.

        Raises:
            CapExceededError, DeadlineError: with the least that would have been needed.
            EndpointBusyError: nobody may join the endpoint's queue.
        """
        with self.ledger.lock:
            self.record.step += 1
            task.id = next(self._task_ids)
            about |= {"expect": dict(expect or {})}
            try:
                task.forecast.expect(expect or {})
                self._admit(task, now, endpoint, close)
            except BaseException as error:
                task.forecast.close()
                self.ledger.close(task.account)
                self.record.opened(task, now, close, endpoint, **about, **_numbers(error))
                raise
            self.record.opened(task, now, close, endpoint, **about)

    def _admit(self, task: TaskState, now: float, endpoint: Endpoint | None, close: int) -> None:
        account, size = task.account, task.final_size
        end = self.ledger.deadline(account, final=True)
        speed = None if endpoint is None else endpoint.latency.speed()
        error = too_small(task, now, end - now, None if speed is None else speed.best, close)
        if error is not None:
            raise error
        promised = account.parent is not None and self.ledger.deadline(account.parent) < INFINITY
        if endpoint is not None and not promised:
            if end < INFINITY:
                self.record.progress(endpoint)
            endpoint.admit(task, end, now)
            self._admitted[task] = endpoint
        if self.pacing is not None and task.parent is None:
            self.pacing.task_opened(task, now)
        # A parent that has no room for it now may have later.
        self.ledger.reserve(account, Amount(close + size), self.timing.final_answer_seconds(speed, size, 0))

    def restore_accounts(self, rows: Sequence[Mapping[str, Any]], now: float) -> None:
        """The accounts of a durable ledger, from the root down, as a run log has them (event `accounts`)."""
        above: Account | None = None
        for row in rows:
            account = self.ledger.accounts.get(row["id"])
            if account is None:
                account = self.ledger.open(row["id"], parent=above, now=now)
            account.tokens, account.nano, account.seconds = row["tokens"], row["nano"], row["seconds"]
            account.deadline = INFINITY if row["deadline"] is None else row["deadline"]
            above = account
        self.record_accounts([] if above is None else above.path[::-1], now)

    def record_accounts(self, accounts: Sequence[Account], now: float) -> None:
        """The accounts of a durable ledger, from the root down, were looked up just now."""
        with self.ledger.lock:
            self.record.accounts(accounts, now)
            if self.pacing is not None:
                self.pacing.record_accounts(accounts)

    def expect(self, task: TaskState, kinds: Mapping[str, int], now: float) -> None:
        """A task declares more calls to come, by kind.

        Raises:
            ValueError: a count is not a whole number of at least 0.
        """
        with self.ledger.lock:
            self.record.step += 1
            task.forecast.expect(kinds)
            self.record.expected(task, kinds, now)
            self._decide_after(task.account, task.account.path[-1].id, now)

    def close(self, task: TaskState, now: float, error: str | None = None) -> None:
        """A task ends: waiting calls are refused, running ones expire, nothing stays held.

        Args:
            error: the name of what ended it, for the log.
        """
        with self.ledger.lock:
            self.dismiss(task, now)
            for running in list(task.running.values()):
                self.expire(running, now)
            self.record.step += 1
            task.forecast.close()
            self.ledger.close(task.account)
            if (endpoint := self._admitted.pop(task, None)) is not None:
                endpoint.release(task)
            if self.pacing is not None:
                self.pacing.task_closed(task)
            if error is None:
                task.teach()
            self.record.closed(task, now, error)
            self._decide_after(task.account, task.account.path[-1].id, now)

    def expire(self, running: Running, now: float) -> None:
        """Nobody waits for a call any more, and what became of it is not known: all it holds is charged."""
        with self.ledger.lock:
            for hold in running.holds:
                self.ledger.expire(hold)
            self.settle(running, running.held, now, answered=False)

    def dismiss(self, task: TaskState, now: float) -> None:
        """A task is about to end: it takes no more calls, and those that wait are refused."""
        with self.ledger.lock:
            if task.closing:
                return
            self.record.step += 1
            task.closing = True
            self.record.closing(task, now)
            queue = self._queues.get(task.account.path[-1].id)
            for request in list(queue.waiting(task.account.id)) if queue else ():
                error = _ended(task)
                self.record.call(request, "refused", now, **_numbers(error))
                self._resolve(request, error)

    # Inside

    def _try(self, request: Request, now: float) -> Outcome | Wait:
        """Decide on a call, and write what was decided."""
        try:
            found = self._outcome(request, now)
            outcome = self._grant(found) if isinstance(found, Allocation) else found
            if isinstance(outcome, Refusal):
                raise outcome.error()
        except Exception as error:  # a policy's mistake belongs to the call it was made for, too
            self.record.call(request, "refused", now, **_numbers(error))
            return error
        if isinstance(outcome, Wait):
            if request.retry_at is None:
                left = self.record.left(request.task, now)
                self.record.call(request, "waiting", now, reason=outcome.why, left=left)
            request.retry_at = outcome.until
        return outcome

    def _outcome(self, request: Request, now: float) -> Allocation | Wait | Refusal:
        """The decision; where it lacks what earlier calls hold, these are reduced, and it is made anew."""
        outcome = self._allocate(request, now)
        lacks = outcome.short if isinstance(outcome, Allocation) else isinstance(outcome, Wait)
        return self._allocate(request, now) if lacks and self._make_room(request, now) else outcome

    def _allocate(self, request: Request, now: float) -> Allocation | Wait | Refusal:
        decision = self._allocator.decide(self._snapshot(request, now))
        move_reserves(self.ledger, request, decision.moves)
        return decision.outcome

    def _snapshot(self, request: Request, now: float) -> Snapshot:
        blocked: list[Running] = []
        for hold in self._blocked_holds:
            if (running := self._running.get(hold)) is not None:
                blocked.append(running)
        return take_snapshot(request, now, self.pacing, blocked)

    def _make_room(self, request: Request, now: float) -> bool:
        """Look, once, at calls of its task and of those around it: which would get less if they came now?"""
        if request.made_room:
            return False
        request.made_room, lowered = True, False
        for hold in list(islice(reversed(request.task.lineage[-1].account.live), LOOKED_AT)):
            running = self._running.get(hold)
            if running is None or running.started >= request.arrived or hold in self._blocked_holds:
                continue
            before = running.limit
            if self._revision.reduce(running, now):
                lowered = True
                self._pace(running, running.expected, now)
                why = f"call {request.number} ({request.kind}) of {request.task.name!r} came and lacks tokens"
                self.record.granted("reduced", running, now, why, before=before)
                assert running.request.on_reduced is not None
                running.request.on_reduced()
        return lowered

    def _grant(self, allocation: Allocation) -> Running:
        """Take the hold, for exactly what goes on the wire."""
        request, now = allocation.headroom.request, allocation.headroom.now
        task, amount = request.task, allocation.hold
        hold = take_hold(self.ledger, allocation, amount)
        if isinstance(hold, Shortage):
            raise CapExceededError(
                f"task {task.name!r}: no room for {hold.needed} {hold.unit} on {hold.account}",
                needed={hold.unit: hold.needed},
                available={hold.unit: hold.available},
            )
        if allocation.last:
            release_reserve(self.ledger, task)
        likely = expected(request, allocation.thinking, allocation.solution)
        for level in task.lineage:
            level.admitted = True
        expect_refund(task, amount - likely)
        task.forecast.started(request.kind)
        grant, rest = grant_of(allocation, hold, amount, now - request.arrived), allocation.rest
        if allocation.last:
            rest = RemainingWork(allocation.solution, prompt=request.prompt)
        running = Running(request, grant, hold, likely, rest, now)
        task.running[hold.id] = self._running[hold.id] = running
        self._pace(running, likely, now)
        if request.endpoint is not None:
            request.endpoint.started(running)
        if task.emit is not None:
            self.record.granted("grant", running, now)
        return running

    def _pace(self, running: Running, amount: Amount, now: float) -> None:
        """A call will probably use, or has used, so much: tell the pool, and keep its tasks' chances."""
        if self.pacing is None:
            return
        request, use = running.request, self.pacing.use(amount)
        self.pacing.record_call(request.task.lineage[-1], running.paced, use, now, done=running.done)
        unused = running.done and not use
        sure = 1.0 if unused else request.curve.p(running.limit) ** request.weight
        for level in request.task.lineage:
            level.chance *= sure / running.success_chance
        running.paced, running.success_chance = use, sure

    def _end_holds(self, running: Running, actual: Amount | None) -> Amount:
        """End what a call holds; what was used is charged to the first hold, and beyond it to extensions."""
        first = running.hold
        if actual is None:
            for hold in running.holds:
                self.ledger.refund(hold)
        else:
            for hold in running.extensions:
                part = actual.excess_over(first.amount).min(hold.amount)
                self.ledger.settle(hold, part)
                actual -= part
            self.ledger.settle(first, actual)
        for hold in running.holds:
            self.ended(hold)
        return sum([hold.charged for hold in running.extensions], first.charged)

    def _full(self, request: Request, now: float) -> bool:
        """Where calls take turns: give it a place in the queue, or refuse it."""
        endpoint, task = request.endpoint, request.task
        if endpoint is None or not endpoint.is_limited(request):
            return False
        busy = None if request.final else endpoint.full(task.key)
        if busy is None:
            end, span = self.ledger.deadline(task.account, final=True), task.account.span
            endpoint.enter(request, end, span)
            self._limited[endpoint] = None
            return False
        self.record.call(request, "refused", now, **_numbers(busy))
        self._resolve(request, busy, tell=False)
        return True

    def _out_of_time(self, request: Request, now: float) -> DeadlineError | None:
        """The error for a call whose time is up before its turn has come, or None."""
        end = self.ledger.deadline(request.task.account, final=request.final)
        assert request.endpoint is not None
        request.retry_at = min(end - SAFETY, request.endpoint.look_again(request, now))
        if now < end - SAFETY - 1e-6:
            return None
        speed, least = request.latency.speed(), request.least_solution()
        takes = SAFETY + (0.0 if speed is None else speed.answer(least, request.fresh))
        error = DeadlineError(
            f"task {request.task.name!r}, call {request.number} ({request.kind}): it has waited for its turn "
            f"for {now - request.arrived:.3f} s, and no time is left for an answer of {least} tokens, which "
            f"takes {takes:.3f} s; raise seconds= or make fewer calls",
            needed={"seconds": takes},
            available={"seconds": max(0.0, end - now)},
        )
        self.record.call(request, "refused", now, **_numbers(error))
        return error

    def _comes_again(self, request: Request) -> None:
        """A declared final call brought no answer: it is still to come."""
        if request.final and request.declared:
            request.task.forecast.expect({request.kind: 1})

    def _resolve(self, request: Request, outcome: Outcome, *, tell: bool = True) -> None:
        request.outcome = outcome
        root = request.task.account.path[-1].id
        if (queue := self._queues.get(root)) is not None:
            queue.leave(request)
        if request.endpoint is not None:
            request.endpoint.leave(request)
        request.task.forecast.left(request.kind)
        if isinstance(outcome, Exception):
            self._comes_again(request)
            for level in request.task.lineage:
                level.cut_short = True
        if request.enclosing_holds:
            self._blocked_holds.subtract(request.enclosing_holds)
        for hold in request.enclosing_holds:
            if self._blocked_holds[hold] <= 0:
                del self._blocked_holds[hold]
        if tell:
            request.on_outcome()


def _numbers(error: BaseException) -> dict[str, Any]:
    """Why something was refused, for the log."""
    why: dict[str, Any] = {"error": type(error).__name__, "reason": str(error)}
    if isinstance(error, CapExceededError):
        why |= {"needed": error.needed, "available": error.available}
    return why


def _ended(task: TaskState) -> TaskClosedError:
    return TaskClosedError(f"task {task.name!r} has ended: it takes no more calls")
