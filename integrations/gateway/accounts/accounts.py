"""Who pays: an account on the durable ledger for each key, and one under it for each task.

All of them share one scheduler's desk, queues and speeds; what differs is the account. So each has a
scheduler of its own, a `Payer`, which differs from the main one in nothing else. The ledger's store is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from elastic_agent.errors import StoreError
from elastic_agent.scheduler.ledger.accounts import Hold
from elastic_agent.scheduler.ledger.durable.durable_ledger import DurableLedger
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store
from elastic_agent.scheduler.runlog.events import Event, Sink
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task


def _pass_on(sink: Sink, event: Event) -> None:
    """To the main scheduler's log, which is not a payer's to close."""
    sink(event)


class Payer(BudgetScheduler):
    """The main scheduler, with tasks charged to one account.

    Args:
        main: what it shares everything else with.
        accounts: from the root down, or the name of one that exists.
    """

    def __init__(
        self, main: BudgetScheduler, store: Store, accounts: str | Sequence[Spec], lease: float
    ) -> None:
        super().__init__(
            prices=main.prices,
            policy=main.policy,
            log=[partial(_pass_on, sink) for sink in main.sinks],
            solution=main.solution,
            wrap_up=main.wrap_up,
            max_running=main.max_running,
            max_waiting=main.max_waiting,
        )
        self.dispatcher = main.dispatcher
        self._curves, self._latency = main._curves, main._latency
        self._endpoints, self._usage_stats = main._endpoints, main._usage_stats
        self.durable = DurableLedger(main.dispatcher.ledger, store, accounts, lease=lease, shared=True)
        self.users = 0
        self.used = asyncio.get_running_loop().time()

    @property
    def name(self) -> str:
        """Its account."""
        assert self.durable is not None
        return self.durable.name

    async def open(self) -> None:
        """Open its account; see `DurableLedger.open`."""
        assert self.durable is not None
        await self.durable.open()

    async def refunds(self, task: Task | None) -> bool:
        """Whether what is held on its account, by anybody, may come back and make room."""
        assert self.durable is not None
        path = task.state.account.path if task is not None else self.durable.account().path
        here = any(a.held != a.reserved for a in path)
        return here or await self.durable.others_hold()

    async def aclose(self) -> None:
        """End its tasks and let go of its account."""
        assert self.durable is not None
        mirror = self.durable.mirror.accounts.get(self.name)
        await super().aclose()
        if mirror is not None:
            self.dispatcher.ledger.close(mirror.path[-1])


class Payers:
    """The payers of a process, made when first needed.

    Args:
        main: the scheduler whose desk they share.
        store: the ledger.
        lease: seconds, see `elastic_agent.scheduler.ledger.durable.options.LEASE`.
    """

    def __init__(self, main: BudgetScheduler, store: Store, lease: float) -> None:
        self.main, self.lease = main, lease
        self.store = store
        self._of: dict[str, asyncio.Task[Payer]] = {}
        self._by_root: dict[str, Payer] = {}
        main.dispatcher.ended = self._ended

    async def of(self, spec: Spec) -> Payer:
        """The payer of an account of its own; one for all requests."""
        found = self._of.get(spec.id)
        if found is None:
            found = self._of[spec.id] = asyncio.ensure_future(self.make([spec]))
        try:
            payer = await asyncio.shield(found)
        except StoreError:
            self._of.pop(spec.id, None)
            raise
        payer.used = asyncio.get_running_loop().time()
        return payer

    async def make(self, accounts: str | Sequence[Spec]) -> Payer:
        """A payer for one user, who lets it `go` again.

        Raises:
            StoreError: see `DurableLedger.open`.
            TaskClosedError: the account is closed.
        """
        payer = Payer(self.main, self.store, accounts, self.lease)
        try:
            await payer.open()
        except BaseException:
            await payer.aclose()
            raise
        assert payer.durable is not None
        self._by_root[payer.durable.account().path[-1].id] = payer
        return payer

    async def go(self, payer: Payer) -> None:
        """Close a payer."""
        assert payer.durable is not None
        root = payer.durable.account().path[-1].id
        await payer.aclose()
        self._by_root.pop(root, None)

    async def sweep(self, idle: float) -> None:
        """Close the payers of keys that nobody has used for so many seconds."""
        now = asyncio.get_running_loop().time()
        for name, task in list(self._of.items()):
            if task.done() and not task.exception():
                payer = task.result()
                if not payer.users and not payer._tasks and now - payer.used > idle:
                    del self._of[name]
                    await self.go(payer)

    async def aclose(self) -> None:
        """Close all of them, then the store."""
        self._of.clear()
        for payer in list(self._by_root.values()):
            await self.go(payer)
        await self.store.aclose()

    def _ended(self, hold: Hold) -> None:
        payer = self._by_root.get(hold.account.path[-1].id)
        if payer is not None and payer.durable is not None:
            payer.durable.end(hold)
