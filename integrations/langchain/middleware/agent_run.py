"""One run of an agent: its task, and its lease of the thread's account."""

from __future__ import annotations

import atexit
import os
from collections.abc import Coroutine
from typing import Any
from weakref import WeakSet, finalize

from elastic_agent.scheduler import Task
from elastic_agent.scheduler.ledger.amounts import NOTHING

from ..accounts.account_leases import AccountLease
from ..blocking_portal import portal


class AgentRun:
    """A run with its task open. It ends with the graph's invocation; where callbacks don't report that end,
    when LangGraph lets go of the run."""

    def __init__(self, task: Task, lease: AccountLease | None) -> None:
        self.task, self._lease = task, lease
        task.lease = lease
        self._finalize = finalize(self, _end, task, lease)
        _open_runs.add(self)
        try:
            task.open()
        except BaseException:
            self._finalize()
            raise

    def end(self) -> Coroutine[Any, Any, None]:
        """End the run now. The coroutine returned settles the thread's account."""
        self._finalize.detach()
        self.task.close()
        return _settle(self.task, self._lease)

    def invocation_over(self) -> None:
        """End the run unless it has ended, and settle without waiting for the store."""
        self._finalize()

    def forget(self) -> None:
        """Leave the run to the process that this one was forked from."""
        self._finalize.detach()


def _end(task: Task, lease: AccountLease | None) -> None:
    task.close()
    if lease is not None:
        portal.start(_settle(task, lease))


async def _settle(task: Task, lease: AccountLease | None) -> None:
    if lease is not None:
        await lease.settle(task.state.account.spent if task.closed else NOTHING)


_open_runs: WeakSet[AgentRun] = WeakSet()


@atexit.register
def _at_exit() -> None:
    """End the runs that are still open, so that they give back what they did not spend."""
    for run in list(_open_runs):
        run.invocation_over()
    portal.wait_for_started()


def _after_fork() -> None:
    for run in list(_open_runs):
        run.forget()
    _open_runs.clear()


os.register_at_fork(after_in_child=_after_fork)
