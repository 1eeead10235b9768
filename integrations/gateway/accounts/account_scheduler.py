"""Schedulers whose tasks are charged to one account of the durable ledger: a key's, or a named task's.

They share one store, and the dispatcher, queues and latency models of one main scheduler. Only the account
differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from elastic_agent.errors import StoreError
from elastic_agent.scheduler.allocation.request import Running
from elastic_agent.scheduler.ledger.accounts import Hold
from elastic_agent.scheduler.ledger.durable.durable_ledger import DurableLedger
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store
from elastic_agent.scheduler.runlog.events import Event, Sink
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task

from ..errors import RETRY_SECONDS

MOST_RETRY_SECONDS = 60.0
"""Clients that are told to wait for longer than a minute take no notice."""


def seconds_left(running: Running, now: float) -> float:
    """In how many seconds a call should end: between RETRY_SECONDS, also where its model's speed is unknown,
    and MOST_RETRY_SECONDS."""
    speed = running.request.model.latency.speed()
    if speed is None:
        return RETRY_SECONDS
    takes = speed.usual_ttft + running.expected.tokens * speed.usual_tpot
    return min(max(RETRY_SECONDS, running.started + takes - now), MOST_RETRY_SECONDS)


def _pass_on(sink: Sink, event: Event) -> None:
    """Write to the main scheduler's log, which an account's scheduler doesn't close."""
    sink(event)


class AccountScheduler(BudgetScheduler):
    """The main scheduler, with tasks charged to one account.

    Args:
        main: the scheduler with which all but the account is shared.
        accounts: from the root down, or the name of an account that exists.
        lease: seconds, see `elastic_agent.scheduler.ledger.durable.options.LEASE`.
    """

    durable: DurableLedger

    def __init__(
        self, main: BudgetScheduler, store: Store, accounts: str | Sequence[Spec], lease: float
    ) -> None:
        super().__init__(
            prices=main.prices,
            policy=main.policy,
            log=[partial(_pass_on, sink) for sink in main.sinks],
            solution=main.solution,
            wrap_up=main.wrap_up,
            tell=main.tell,
            max_running=main.max_running,
            max_waiting=main.max_waiting,
        )
        self.prices = main.prices  # the same dict: a reload changes it
        self.dispatcher = main.dispatcher
        self._curves, self._latency = main._curves, main._latency
        self._endpoints, self._usage_stats = main._endpoints, main._usage_stats
        self.durable = DurableLedger(main.dispatcher.ledger, store, accounts, lease=lease, shared=True)
        self.users = 0
        self.used = asyncio.get_running_loop().time()

    @property
    def name(self) -> str:
        """The account's name."""
        return self.durable.name

    async def refunds(self, task: Task | None) -> float | None:
        """After how many seconds a hold on the account may be refunded and make room; None: there is none.

        For calls of this process, the time is that at which the first of them should end, by what it may
        still use and the speed that was seen of its model. Of other processes' calls no time is known.
        """
        path = task.state.account.path if task is not None else self.durable.account().path
        if any(a.held != a.reserved for a in path):
            now, calls = asyncio.get_running_loop().time(), list(self.dispatcher.running)
            held = [seconds_left(one, now) for one in calls if set(one.hold.account.path) & set(path)]
            return min(held, default=RETRY_SECONDS)
        return RETRY_SECONDS if await self.durable.others_hold() else None


class AccountSchedulers:
    """The account schedulers of a process, made when they are first needed.

    Args:
        main: the scheduler whose dispatcher they share.
        store: the ledger.
        lease: seconds, see `elastic_agent.scheduler.ledger.durable.options.LEASE`.
    """

    def __init__(self, main: BudgetScheduler, store: Store, lease: float) -> None:
        self.main, self.store, self.lease = main, store, lease
        self._shared: dict[str, asyncio.Task[AccountScheduler]] = {}
        self._by_root: dict[str, AccountScheduler] = {}
        main.dispatcher.running.hold_ended = self._hold_ended

    async def shared(self, spec: Spec) -> AccountScheduler:
        """The scheduler of a key's account, one for all of the key's requests.

        Raises:
            StoreError: see `DurableLedger.open`.
        """
        opening = self._shared.get(spec.id)
        if opening is None:
            opening = self._shared[spec.id] = asyncio.ensure_future(self.open([spec]))
        try:
            scheduler = await asyncio.shield(opening)
        except StoreError:
            self._shared.pop(spec.id, None)
            raise
        scheduler.used = asyncio.get_running_loop().time()
        return scheduler

    async def open(self, accounts: str | Sequence[Spec]) -> AccountScheduler:
        """A scheduler of its own for an account; its user calls `close` in the end.

        Raises:
            StoreError: see `DurableLedger.open`.
            TaskClosedError: the account is closed.
        """
        scheduler = AccountScheduler(self.main, self.store, accounts, self.lease)
        try:
            await scheduler.durable.open()
        except BaseException:
            await scheduler.aclose()
            raise
        self._by_root[scheduler.durable.account().root.id] = scheduler
        return scheduler

    async def close(self, scheduler: AccountScheduler) -> None:
        """End a scheduler's tasks and close its lease."""
        root = scheduler.durable.account().root.id
        await scheduler.aclose()
        self._by_root.pop(root, None)

    async def sweep(self, idle: float) -> None:
        """Close the schedulers of keys that were unused for `idle` seconds."""
        now = asyncio.get_running_loop().time()
        for name, opening in list(self._shared.items()):
            if opening.done() and not opening.exception():
                scheduler = opening.result()
                if not scheduler.users and not scheduler._tasks and now - scheduler.used > idle:
                    del self._shared[name]
                    await self.close(scheduler)

    async def aclose(self) -> None:
        """Close all of them, then the store."""
        self._shared.clear()
        for scheduler in list(self._by_root.values()):
            await self.close(scheduler)
        await self.store.aclose()

    def _hold_ended(self, hold: Hold) -> None:
        scheduler = self._by_root.get(hold.account.root.id)
        if scheduler is not None:
            scheduler.durable.end(hold)
