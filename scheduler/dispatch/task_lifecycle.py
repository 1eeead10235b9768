"""A task opens, declares calls, takes no more calls, ends; accounts of a durable ledger are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from ..allocation.degrade import too_small
from ..allocation.task_state import TaskState
from ..latency.slack import Timing
from ..ledger.accounts import Account
from ..ledger.amounts import INFINITY, Amount
from ..ledger.inherited_caps import inherited_deadline
from ..ledger.ledger import Ledger
from ..policies.pacing import Pacing
from ..queueing.endpoint import Endpoint
from ..runlog.recorder import Recorder


class TaskLifecycle:
    """See the module; under the ledger's lock. `Dispatcher` documents the steps.

    Args:
        pacing: the price of the pool that all tasks share; None: there is none.
    """

    def __init__(self, ledger: Ledger, record: Recorder, timing: Timing, pacing: Pacing | None) -> None:
        self._ledger, self._record, self._timing, self._pacing = ledger, record, timing, pacing
        self._task_ids = count(1)
        self._admitted: dict[TaskState, Endpoint] = {}  # by task: the endpoint that has promised it answers

    def open(
        self,
        task: TaskState,
        now: float,
        endpoint: Endpoint | None,
        close: int,
        expect: Mapping[str, int],
        about: Mapping[str, Any],
    ) -> None:
        """A task opens, or is refused."""
        task.listener.task_id = next(self._task_ids)
        try:
            task.forecast.expect(expect)
            self._admit(task, now, endpoint, close)
        except BaseException as error:
            task.forecast.close()
            self._ledger.close(task.account)
            self._record.opened(task, now, close, endpoint, error, expect=dict(expect), **about)
            raise
        self._record.opened(task, now, close, endpoint, expect=dict(expect), **about)

    def _admit(self, task: TaskState, now: float, endpoint: Endpoint | None, close: int) -> None:
        account, size = task.account, task.final_answer.size
        end = inherited_deadline(account, final=True)
        speed = None if endpoint is None else endpoint.latency.speed()
        error = too_small(task, now, end - now, None if speed is None else speed.best, close)
        if error is not None:
            raise error
        promised = account.parent is not None and inherited_deadline(account.parent) < INFINITY
        if endpoint is not None and not promised:
            if end < INFINITY:
                self._record.progress(endpoint)
            endpoint.admit(task, end, now)
            self._admitted[task] = endpoint
        if self._pacing is not None and task.parent is None:
            self._pacing.task_opened(task, now)
        # A parent that has no room for it now may have later.
        seconds = self._timing.final_answer_seconds(speed, size, 0)
        self._ledger.reserve(account, Amount(close + size), seconds)

    def expect(self, task: TaskState, kinds: Mapping[str, int], now: float) -> None:
        """A task declares more calls to come."""
        task.forecast.expect(kinds)
        self._record.expected(task, kinds, now)

    def dismiss(self, task: TaskState, now: float) -> None:
        """A task takes no more calls."""
        task.status.closing = True
        self._record.closing(task, now)

    def close(self, task: TaskState, now: float, error: str | None) -> None:
        """A task ends, which has no calls any more."""
        task.forecast.close()
        self._ledger.close(task.account)
        if (endpoint := self._admitted.pop(task, None)) is not None:
            endpoint.release(task)
        if self._pacing is not None:
            self._pacing.task_closed(task)
        if error is None:
            task.teach()
        self._record.closed(task, now, error)

    def restore_accounts(self, rows: Sequence[Mapping[str, Any]], now: float) -> None:
        """The accounts of a durable ledger, from the root down, as a run log has them (event `accounts`)."""
        above: Account | None = None
        for row in rows:
            account = self._ledger.accounts.get(row["id"])
            if account is None:
                account = self._ledger.open(row["id"], parent=above, now=now)
            account.tokens, account.nano, account.seconds = row["tokens"], row["nano"], row["seconds"]
            account.deadline = INFINITY if row["deadline"] is None else row["deadline"]
            above = account
        self.record_accounts([] if above is None else above.path[::-1], now)

    def record_accounts(self, accounts: Sequence[Account], now: float) -> None:
        """The accounts of a durable ledger, from the root down, were looked up just now."""
        self._record.accounts(accounts, now)
        if self._pacing is not None:
            self._pacing.record_accounts(accounts)
