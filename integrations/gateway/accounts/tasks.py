"""Tasks that clients name: opened by a POST to `/v1/tasks`, or by a request that brings an id and caps.

A task is an account of the durable ledger, under its key's. So it is one and the same in every gateway on
that ledger: whichever process a request comes to finds the account, and the ledger keeps the caps over all of
them. Each process has its own plan of the task (what thinking its next call gets, what its final answer
needs), made from what the ledger says is left.

A task ends when its key deletes it, or when nobody has used it for a while. A process lets go of a task that
it has not used itself, and closes it for all when the ledger shows that nobody else has either.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
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
from elastic_agent.scheduler.ledger.stores.protocol import Level, Spec
from elastic_agent.scheduler.runlog.report import Units
from elastic_agent.scheduler.runtime.task import Task

from ..api.errors import GatewayError, bad
from .accounts import Payer, Payers


@dataclass(slots=True, eq=False)
class OpenTask:
    """A task as this process has it.

    Attributes:
        id: what its key calls it.
        account: its account on the ledger.
        payer: whose `task` this is.
        running: requests that use it now.
        used: when one last did, on the event loop's clock.
        seen: its books when this process last looked whether others use it.
    """

    id: str
    account: str
    payer: Payer
    task: Task
    running: int = 0
    used: float = 0.0
    seen: tuple[Amount, Amount] | None = None

    def busy(self) -> bool:
        """A request uses it now."""
        return self.running > 0


class Tasks:
    """The tasks of a process.

    Args:
        payers: who pays.
        most: open at once.
        idle: seconds after which one that nobody uses is closed.
        backend: the model that they will probably use: it promises them their answers in time.
    """

    def __init__(self, payers: Payers, most: int, idle: float, backend: Backend) -> None:
        self.payers, self.most, self.idle, self.backend = payers, most, idle, backend
        self._open: dict[str, asyncio.Task[OpenTask]] = {}

    async def open(
        self, owner: Spec, caps: Caps, *, id: str | None = None, fresh: bool = False, **options: Any
    ) -> OpenTask:
        """A task with these caps, under an account; one that is open with the same caps is that one.

        Args:
            fresh: its id must be new.

        Raises:
            GatewayError: the id stands for a task with other caps, or for one that has ended.
        """
        id = id or f"task-{secrets.token_hex(8)}"
        account = f"{owner.id}/{id}"
        if fresh and (account in self._open or await self._books(account) is not None):
            raise GatewayError(400, f"there is a task called {id!r} already", "task_exists", param="id")
        spec = Spec(account, caps.tokens, caps.nanodollars, caps.seconds)
        return await self._get(id, account, [owner, spec], caps, options)

    async def find(self, owner: Spec, id: str) -> OpenTask | None:
        """A task that was opened before, here or by another process; None: no such task of this owner."""
        account = f"{owner.id}/{id}"
        if account not in self._open:
            level = await self._books(account)
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
            return await self._get(id, account, account, caps, {})
        return await self._get(id, account, account, None, {})

    async def check_open(self, task: OpenTask) -> None:
        """Whether it still takes calls: another process may have ended it.

        Raises:
            TaskClosedError: it does not.
        """
        level = await self._books(task.account)
        if level is None or level.closed:
            raise TaskClosedError(f"task {task.id!r} has ended: it takes no more calls")

    async def close(self, owner: Spec, id: str) -> dict[str, Any]:
        """End a task, for every process; what it did.

        Raises:
            GatewayError: there is none.
        """
        account = f"{owner.id}/{id}"
        report = await self.report(owner, id)
        await self._let_go(account)
        await self.payers.store.close(account)
        return report | {"closed": True}

    async def report(self, owner: Spec, id: str) -> dict[str, Any]:
        """What a task may spend, has spent and holds, by the ledger; and the calls that this process made.

        Raises:
            GatewayError: there is none.
        """
        account = f"{owner.id}/{id}"
        level = await self._books(account)
        if level is None:
            raise GatewayError(404, f"there is no task {id[:64]!r}", "task_not_found")
        spec, here = level.spec, self._open.get(account)
        calls = here.result().task.report().to_dict()["calls"] if here and here.done() else []
        return {
            "id": id,
            "object": "task",
            "closed": level.closed,
            "caps": _units(Amount(spec.tokens or 0, spec.nano or 0), spec.seconds, spec),
            "spent": _units(level.spent),
            "held": _units(level.held),
            "left": _units(_left(level), level.left, spec),
            "calls": calls,
        }

    async def sweep(self) -> None:
        """Let go of tasks that nobody has used for a while."""
        now = asyncio.get_running_loop().time()
        for account, opening in list(self._open.items()):
            if not opening.done() or opening.exception() is not None:
                continue
            task = opening.result()
            if task.busy() or (task.seen is not None and now - task.used < self.idle):
                continue
            with suppress(StoreUnavailableError):
                level = await self._books(account)
                seen = None if level is None else (level.spent, level.held)
                if task.busy():  # meanwhile
                    continue
                over = level is None or level.closed or level.left == 0.0
                if not over and task.seen != seen:  # it was used, here or by another process
                    task.seen, task.used = seen, now
                    continue
                await self._let_go(account)
                if not over:
                    await self.payers.store.close(account)

    def used(self, task: OpenTask) -> None:
        """A request has ended that used it."""
        task.used = asyncio.get_running_loop().time()
        task.seen = None

    async def aclose(self) -> None:
        """Let go of all; on the ledger they stay open, for other processes."""
        for account in list(self._open):
            await self._let_go(account)

    def __len__(self) -> int:
        return len(self._open)

    async def _books(self, account: str) -> Level | None:
        try:
            return (await self.payers.store.books(account))[0]
        except UnknownAccountError:
            return None

    async def _get(
        self, id: str, account: str, accounts: Any, caps: Caps | None, options: Mapping[str, Any]
    ) -> OpenTask:
        found = self._open.get(account)
        if found is None:
            assert caps is not None
            if len(self._open) >= self.most:
                raise GatewayError(
                    429,
                    f"{self.most} tasks are open here: close some (DELETE /v1/tasks/ID)",
                    "too_many_tasks",
                    retry_after=30.0,
                )
            found = self._open[account] = asyncio.ensure_future(
                self._make(id, account, accounts, caps, options)
            )
            found.add_done_callback(lambda done: self._failed(account, done))
        try:
            task = await asyncio.shield(found)
        except (StoreUnavailableError, StoreClockError, StoreForgotError):
            raise
        except StoreError as error:
            raise bad("X-Elastic-Caps", f"task {id!r}: {error}", "caps_differ") from error
        if caps is not None and accounts is not account and _spec(task.task.caps) != _spec(caps):
            raise bad("X-Elastic-Caps", f"task {id!r} was opened with other caps", "caps_differ")
        task.used = asyncio.get_running_loop().time()
        return task

    def _failed(self, account: str, done: asyncio.Task[OpenTask]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._open.pop(account, None)

    async def _make(
        self, id: str, account: str, accounts: Any, caps: Caps, options: Mapping[str, Any]
    ) -> OpenTask:
        payer = await self.payers.make(accounts)
        payer.backend = self.backend
        try:
            task = payer.task(caps, name=id, key=account, **options).open()
        except BaseException:
            await self.payers.go(payer)
            raise
        return OpenTask(id, account, payer, task)

    async def _let_go(self, account: str) -> None:
        opening = self._open.pop(account, None)
        if opening is not None:
            with suppress(Exception):
                task = await opening
                await self.payers.go(task.payer)  # ends the task, which gives its reserve back


def _spec(caps: Caps) -> tuple[int | None, int | None, float | None]:
    return caps.tokens, caps.nanodollars, caps.seconds


def _units(amount: Amount, seconds: float | None = None, of: Spec | None = None) -> dict[str, float]:
    """By unit; of a Spec only where it is capped."""
    return Units(
        amount.tokens if of is None or of.tokens is not None else None,
        to_usd(amount.nano) if of is None or of.nano is not None else None,
        None if seconds is None else round(seconds, 3),
    ).to_dict()


def _left(level: Level) -> Amount:
    balances = level.balances()
    tokens, nano = balances.get("tokens"), balances.get("nano")
    return Amount(int(tokens.available) if tokens else 0, int(nano.available) if nano else 0)
