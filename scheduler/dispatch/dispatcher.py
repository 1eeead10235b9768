"""The dispatcher: calls ask here for tokens, and are granted, made to wait, or refused. No clock, no asyncio.

A call that arrives is queued (`submit`); `run_pass` decides on it. It runs when a call arrives and whenever
something comes back. `Dispatcher` is the one door to a ledger's tasks and calls: each thing that it is told
is one step, under the ledger's lock, and one line of the run log. What the steps do is in the other files of
this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elastic_agent.errors import TaskClosedError
from elastic_agent.usage import Usage

from ..allocation.allocator import Allocator
from ..allocation.request import Request, Running
from ..allocation.task_state import TaskState
from ..latency.slack import Timing
from ..ledger.accounts import Account
from ..ledger.amounts import Amount
from ..ledger.ledger import Ledger
from ..policies.pacing import Pacing
from ..queueing.endpoint import Endpoint
from ..runlog.events import Sink
from ..runlog.recorder import Recorder
from .call_decision import CallDecision
from .decision_loop import DecisionLoop
from .revision import Extension, Revision
from .running_calls import RunningCalls
from .task_lifecycle import TaskLifecycle


class Dispatcher:
    """Grants, for all tasks of one ledger. Thread-safe through the ledger's lock.

    Args:
        files: where everything goes that a replay needs; see `elastic_agent.scheduler.runlog.recorder`.

    Attributes:
        pacing: the price of the pool that all tasks share; None: there is none.
        running: the granted calls that are not over.
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
        ledger = self.ledger = ledger or Ledger()
        self.timing, self.pacing = timing or Timing(), pacing
        record = self.record = Recorder(self.timing, files, pacing)
        self.request_pass: Callable[[Account, float], None] = self.run_pass
        allocator = Allocator(self.timing)
        self.running = RunningCalls(ledger, record, pacing)
        self._revision = Revision(ledger, record, allocator, self.running)
        decision = CallDecision(ledger, record, allocator, self.running, self._revision)
        self._loop = DecisionLoop(ledger, record, self.running, decision)
        self._lifecycle = TaskLifecycle(ledger, record, self.timing, pacing)

    # Calls

    def submit(self, request: Request, now: float) -> None:
        """Queue a call; decide with `run_pass`.

        Raises:
            TaskClosedError: its task has ended.
        """
        with self.ledger.lock:
            if request.task.closed:
                raise _ended(request.task)
            self.record.step += 1
            self._loop.enqueue(request, now)

    def run_pass(self, account: Account, now: float) -> None:
        """Decide what can be decided: on calls that have come, on those that lack something on this account
        or above it, and on endpoints where calls take turns.
        """
        self.run_pass_at(account.path[-1].id, account.id, now)

    def run_pass_at(self, root: str, account: str, now: float) -> None:
        """The same by the ids of the account and of the one at its root."""
        with self.ledger.lock:
            self.record.step += 1
            self._loop.run_pass(root, account, now)

    def withdraw(self, request: Request, now: float) -> None:
        """The caller has gone: a waiting call leaves, a granted one that was not sent is refunded."""
        with self.ledger.lock:
            if isinstance(request.outcome, Running):
                self.settle(request.outcome, None, now, answered=False)
            elif request.outcome is None:
                self.record.step += 1
                self._loop.resolve(request, _ended(request.task), tell=False)
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
            self.running.settle(running, actual, now, answered=answered, used=used, learn=learn)
            self._came_back(running.request.task.account, now)

    def expire(self, running: Running, now: float) -> None:
        """Nobody waits for a call any more, and what became of it is not known: all it holds is charged."""
        with self.ledger.lock:
            if running.done:
                return
            self.record.step += 1
            self.running.expire(running, now)
            self._came_back(running.request.task.account, now)

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
            return self._revision.extend(running, used, now)

    def drop_extension(self, running: Running, extension: Extension, now: float) -> None:
        """A durable ledger has no room for an extension: the call keeps what it had."""
        with self.ledger.lock:
            self.record.step += 1
            self._revision.drop(running, extension, now)
            self._came_back(running.request.task.account, now)

    def record_feedback(self, running: Running, right: bool, now: float) -> None:
        """Whether the answer of a call was right: what nobody but its user can know."""
        with self.ledger.lock:
            self.record.step += 1
            self.record.call(running.request, "feedback", now, correct=right, now=now)
            running.record_feedback(right)

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
            self._lifecycle.open(task, now, endpoint, close, expect or {}, about)

    def expect(self, task: TaskState, kinds: Mapping[str, int], now: float) -> None:
        """A task declares more calls to come, by kind.

        Raises:
            ValueError: a count is not a whole number of at least 0.
        """
        with self.ledger.lock:
            self.record.step += 1
            self._lifecycle.expect(task, kinds, now)
            self._came_back(task.account, now)

    def dismiss(self, task: TaskState, now: float) -> None:
        """A task is about to end: it takes no more calls, and those that wait are refused."""
        with self.ledger.lock:
            if task.status.closing:
                return
            self.record.step += 1
            self._lifecycle.dismiss(task, now)
            for request in self._loop.waiting(task):
                error = _ended(task)
                self.record.refused(request, error, now)
                self._loop.resolve(request, error)

    def close(self, task: TaskState, now: float, error: str | None = None) -> None:
        """A task ends: waiting calls are refused, running ones expire, nothing stays held.

        Args:
            error: the name of what ended it, for the log.
        """
        with self.ledger.lock:
            self.dismiss(task, now)
            for running in self.running.of(task):
                self.record.step += 1
                self.running.expire(running, now)
            self.record.step += 1
            self._lifecycle.close(task, now, error)
            self._came_back(task.account.parent or task.account, now)

    def restore_accounts(self, rows: Sequence[Mapping[str, Any]], now: float) -> None:
        """The accounts of a durable ledger, from the root down, as a run log has them (event `accounts`)."""
        with self.ledger.lock:
            self._lifecycle.restore_accounts(rows, now)

    def record_accounts(self, accounts: Sequence[Account], now: float) -> None:
        """The accounts of a durable ledger, from the root down, were looked up just now."""
        with self.ledger.lock:
            self._lifecycle.record_accounts(accounts, now)

    # Inside

    def _came_back(self, account: Account, now: float) -> None:
        """What others can have has changed: they are decided on in a pass of their own, not in this step."""
        if not self._loop.idle:
            self.request_pass(account, now)


def _ended(task: TaskState) -> TaskClosedError:
    return TaskClosedError(f"task {task.name!r} has ended: it takes no more calls")
