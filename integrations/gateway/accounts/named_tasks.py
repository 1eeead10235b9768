"""Tasks that clients name: opened by a POST to `/v1/tasks`, or by a request that brings an id and caps.

A task is an account of the durable ledger, under the account of its key. So all gateways on that ledger have
the same task, and the ledger keeps the caps over all processes. Each process decides what its next call gets
from what the ledger says is left.

A task ends when a client with its key deletes it, or when no request has used it for a while: a process that
has not used the task closes it for all processes, if the ledger shows that no other process has used it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from elastic_agent.backends.base import Backend
from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import (
    StoreClockError,
    StoreError,
    StoreForgotError,
    StoreUnavailableError,
    TaskClosedError,
    UnknownAccountError,
)
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores.protocol import Spec, StoredAccount
from elastic_agent.scheduler.runtime.task import Task

from ..errors import GatewayError, bad_request
from ..settings import Limits
from ..storage.task_table import TaskTable
from .account_scheduler import AccountScheduler, AccountSchedulers
from .owner import by_unit, left_of


@dataclass(slots=True, eq=False)
class NamedTask:
    """A task that this process has open.

    Attributes:
        id: what the client calls it.
        account: its account on the ledger.
        scheduler: the scheduler of that account, whose `task` this is.
        running: requests that use the task now.
        used: when a request last ended that used it, on the event loop's clock.
        seen: spent and held on the ledger when this process last looked; None: not since its last request.
    """

    id: str
    account: str
    scheduler: AccountScheduler
    task: Task
    running: int = 0
    used: float = 0.0
    seen: tuple[Amount, Amount] | None = None


class NamedTasks:
    """The tasks that a process has open.

    Args:
        schedulers: make a scheduler for each task's account.
        limits: how many tasks may be open at once, and after how long without a request one is closed.
        said: what clients say of tasks when they open them, kept for the other processes.
        backend: the model that tasks will probably use: admission by deadline counts with its speed. None:
            the gateway has no model of its own.
    """

    def __init__(
        self, schedulers: AccountSchedulers, limits: Limits, said: TaskTable, backend: Backend | None
    ) -> None:
        self.schedulers, self.limits, self.backend = schedulers, limits, backend
        self._said = said
        self._open: dict[str, asyncio.Task[NamedTask]] = {}

    async def open(
        self, owner: Spec, caps: Caps, *, id: str | None = None, fresh: bool = False, **options: Any
    ) -> NamedTask:
        """Open a task with these caps under an owner's account, or find the open one with the same caps.

        Args:
            fresh: the id must be new.

        Raises:
            GatewayError: the task of this id has other caps, or has ended; or the id isn't new.
        """
        id = id or f"task-{secrets.token_hex(8)}"
        account = f"{owner.id}/{id}"
        if fresh and (account in self._open or await self._on_ledger(account) is not None):
            raise GatewayError(400, f"there is a task called {id!r} already", "task_exists", param="id")
        spec = Spec(account, caps.tokens, caps.nanodollars, caps.seconds)
        if said := {name: value for name, value in options.items() if value is not None}:
            await asyncio.to_thread(self._said.put, account, json.dumps(said))
        self._begin(id, account, [owner, spec], caps, options)
        task = await self._opened(id, account)
        if _limits(task.task.caps) != _limits(caps):
            raise bad_request("X-Elastic-Caps", f"task {id!r} was opened with other caps", "caps_differ")
        return task

    async def find(self, owner: Spec, id: str) -> NamedTask | None:
        """A task that was opened before, here or by another process; None: the owner has no such task.

        Raises:
            TaskClosedError: it has ended.
            GatewayError: its time is up.
        """
        account = f"{owner.id}/{id}"
        if account not in self._open:
            level = await self._on_ledger(account)
            if level is None:
                return None
            if level.closed:
                raise TaskClosedError(f"task {id!r} has ended: it takes no more calls")
            if level.left is not None and level.left <= 0:
                raise GatewayError(402, f"task {id!r}: its time is up", "deadline_exceeded")
            spec = level.spec
            caps = Caps(
                usd=None if spec.nano is None else to_usd(spec.nano), seconds=level.left, tokens=spec.tokens
            )
            said = await asyncio.to_thread(self._said.get, account)
            self._begin(id, account, account, caps, {} if said is None else json.loads(said))
        return await self._opened(id, account)

    async def check_open(self, task: NamedTask) -> None:
        """Return if a task still takes calls; another process may have ended it.

        Raises:
            TaskClosedError: it has ended.
        """
        level = await self._on_ledger(task.account)
        if level is None or level.closed:
            raise TaskClosedError(f"task {task.id!r} has ended: it takes no more calls")

    async def close(self, owner: Spec, id: str) -> dict[str, Any]:
        """The report of a task, which ends for all processes.

        Raises:
            GatewayError: there is no such task.
        """
        account = f"{owner.id}/{id}"
        report = await self.report(owner, id)
        await self._forget(account)
        await self.schedulers.store.close(account)
        await asyncio.to_thread(self._said.delete, account)
        return report | {"closed": True}

    async def report(self, owner: Spec, id: str) -> dict[str, Any]:
        """Caps, spent, held and left of a task, by the ledger; and the calls that this process made.

        Raises:
            GatewayError: there is no such task.
        """
        account = f"{owner.id}/{id}"
        level = await self._on_ledger(account)
        if level is None:
            raise GatewayError(404, f"there is no task {id[:64]!r}", "task_not_found")
        spec, here = level.spec, self._open.get(account)
        calls = here.result().task.report().to_dict()["calls"] if here and here.done() else []
        return {
            "id": id,
            "object": "task",
            "closed": level.closed,
            "caps": by_unit(Amount(spec.tokens or 0, spec.nano or 0), spec.seconds, spec),
            "spent": by_unit(level.spent),
            "held": by_unit(level.held),
            "left": by_unit(left_of(level), level.left, spec),
            "calls": calls,
        }

    async def sweep(self) -> None:
        """Close tasks that no request has used for a while."""
        now = asyncio.get_running_loop().time()
        for opening in list(self._open.values()):
            if not opening.done() or opening.exception() is not None:
                continue
            task = opening.result()
            if not task.running and (task.seen is None or now - task.used >= self.limits.task_idle_seconds):
                with suppress(StoreUnavailableError):
                    await self._close_if_idle(task, now)

    async def _close_if_idle(self, task: NamedTask, now: float) -> None:
        level = await self._on_ledger(task.account)
        seen = None if level is None else (level.spent, level.held)
        if task.running:  # since then
            return
        ended = level is None or level.closed or level.left == 0.0
        if not ended and task.seen != seen:  # used since the last look, here or by another process
            task.seen, task.used = seen, now
            return
        await self._forget(task.account)
        if not ended:
            await self.schedulers.store.close(task.account)
        await asyncio.to_thread(self._said.delete, task.account)

    def request_ended(self, task: NamedTask) -> None:
        """Note that a request which used a task has ended."""
        task.used = asyncio.get_running_loop().time()
        task.seen = None

    async def aclose(self) -> None:
        """Close this process' part of all tasks. On the ledger they stay open, for other processes."""
        for account in list(self._open):
            await self._forget(account)
        self._said.close()

    def __len__(self) -> int:
        return len(self._open)

    async def _on_ledger(self, account: str) -> StoredAccount | None:
        try:
            return (await self.schedulers.store.read_accounts(account))[0]
        except UnknownAccountError:
            return None

    def _begin(
        self, id: str, account: str, accounts: str | Sequence[Spec], caps: Caps, options: Mapping[str, Any]
    ) -> None:
        """Begin to open a task in this process, unless another request has begun or done that."""
        if account in self._open:
            return
        if len(self._open) >= self.limits.tasks:
            raise GatewayError(
                429,
                f"{self.limits.tasks} tasks are open here: close some (DELETE /v1/tasks/ID)",
                "too_many_tasks",
                retry_after=30.0,
            )
        opening = asyncio.ensure_future(self._make(id, account, accounts, caps, options))
        opening.add_done_callback(lambda done: self._drop_failed(account, done))
        self._open[account] = opening

    async def _opened(self, id: str, account: str) -> NamedTask:
        """A task that this process has begun to open, once it is open."""
        try:
            task = await asyncio.shield(self._open[account])
        except (StoreUnavailableError, StoreClockError, StoreForgotError):
            raise
        except StoreError as error:
            raise bad_request("X-Elastic-Caps", f"task {id!r}: {error}", "caps_differ") from error
        task.used = asyncio.get_running_loop().time()
        return task

    def _drop_failed(self, account: str, done: asyncio.Task[NamedTask]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._open.pop(account, None)

    async def _make(
        self, id: str, account: str, accounts: str | Sequence[Spec], caps: Caps, options: Mapping[str, Any]
    ) -> NamedTask:
        scheduler = await self.schedulers.open(accounts)
        scheduler.backend = self.backend
        try:
            task = scheduler.task(caps, name=id, key=account, **options).open()
        except BaseException:
            await self.schedulers.close(scheduler)
            raise
        return NamedTask(id, account, scheduler, task)

    async def _forget(self, account: str) -> None:
        opening = self._open.pop(account, None)
        if opening is not None:
            with suppress(Exception):
                task = await opening
                await self.schedulers.close(task.scheduler)  # ends the task, which gives its reserve back


def _limits(caps: Caps) -> tuple[int | None, int | None, float | None]:
    return caps.tokens, caps.nanodollars, caps.seconds
