"""A worker of the meter test: runs tasks on the shared ledger and the upstream, until something kills it.

One process, several tasks at once over one connection. It renews the leases of calls that run, lets those go
whose reply does not come, and sweeps now and then. It dies (SIGKILL, by its own hand) at the point that it
was ordered to: POINTS. What the store told it about ended holds goes to a journal, for the one who counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from _meter_plan import LEASE, PATIENCE, PRICE, Task, tasks
from _meter_variants import WRONG

from elastic_agent.errors import LeaseLostError, StoreClockError, StoreUnavailableError, TaskClosedError
from elastic_agent.scheduler.ledger import clocks
from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import Amount, Shortage
from elastic_agent.scheduler.ledger.durable.leases import Leases
from elastic_agent.scheduler.ledger.stores.protocol import Store, StoredHold

T = TypeVar("T")

POINTS = (
    "opened",  # accounts are there, nothing is held
    "reserved",  # the answer's reserve is held
    "asking",  # a hold is on its way to the store
    "held",  # it is taken, not dispatched
    "dispatched",  # the last word was said, nothing was sent
    "sent",  # the call is on the wire
    "received",  # its reply is here, not settled
    "settling",  # a settle is on its way to the store
    "settled",  # it is done
    "closing",  # all is settled, the account is open
)


def make_store(kind: str, url: str, clock: Callable[[], float] = time.time) -> Store:
    """A store of a kind. Only SQLite's takes a clock: servers have their own."""
    if kind == "sqlite":
        from elastic_agent.scheduler.ledger.stores.sqlite import SqliteStore

        return SqliteStore(url, clock=clock, timeout=2.0)
    if kind == "postgres":
        from elastic_agent.scheduler.ledger.stores.postgres import PostgresStore

        return PostgresStore(url, timeout=2.0)
    from elastic_agent.scheduler.ledger.stores.redis import RedisStore

    return RedisStore(url, timeout=2.0)


class Worker:
    """See above. `orders` is the line to the one who gives out tasks and deaths."""

    def __init__(
        self, orders: Connection, kind: str, url: str, variant: str, port: int, journal: Path, seed: str
    ) -> None:
        self._orders, self._port, self._draw = orders, port, random.Random(seed)
        self._ahead, self._die_at = 0.0, ""
        store = make_store(kind, url, lambda: time.time() + self._ahead)
        self._store: Store = WRONG[variant](store) if variant in WRONG else store
        self._journal = journal.open("ab", buffering=0)
        self._leases: set[str] = set()
        self._live = Leases(self._store, LEASE)
        self._replies: dict[str, asyncio.Future[int]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._refused = 0

    async def run(self, plan: list[Task]) -> None:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        stop = asyncio.Event()

        def ordered() -> None:
            while self._orders.poll():
                match self._orders.recv():
                    case ("task", n, attempt):
                        self._start(self._task(n, plan[n], attempt))
                    case ("die", point):
                        self._die_at = point
                    case ("jump", seconds):
                        self._ahead = seconds
                    case _:
                        stop.set()

        asyncio.get_running_loop().add_reader(self._orders.fileno(), ordered)
        for loop in (self._listen(reader), self._renew(), self._sweep()):
            self._start(loop)
        await stop.wait()

    def _start(self, work: Awaitable[None]) -> None:
        async def loudly() -> None:
            try:
                await work
            except Exception as error:
                self._orders.send(("failed", f"{type(error).__name__}: {error}"))
                raise

        task = asyncio.create_task(loudly())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _point(self, name: str) -> None:
        """Where a worker may be told to die. "-ing" points: while the store works on it."""
        if name == self._die_at:
            if name in ("asking", "settling"):
                delay = self._draw.uniform(0, 0.01)
                asyncio.get_running_loop().call_later(delay, os.kill, os.getpid(), signal.SIGKILL)
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    async def _sure(self, step: Callable[[], Awaitable[T]]) -> T:
        """No call leaves without the store: ask again, under the same keys, until it answers."""
        while True:
            try:
                return await step()
            except (StoreUnavailableError, StoreClockError):
                await asyncio.sleep(self._draw.uniform(0.05, 0.2))

    def _note(self, hold: StoredHold) -> StoredHold:
        if hold.state is not HoldState.LIVE:
            charged = hold.charged
            self._journal.write(f"{hold.key}\t{hold.state}\t{charged.tokens}\t{charged.nano}\n".encode())
        return hold

    async def _task(self, n: int, task: Task, attempt: int) -> None:
        self._refused = 0
        try:
            await self._sure(lambda: self._store.open(task.path))
            self._point("opened")
            await self._calls(f"{n}.{attempt}", task)
            self._point("closing")
            await self._sure(lambda: self._store.close(task.path[2].id))
        except TaskClosedError:
            pass  # by an attempt that died between closing it and saying so
        self._orders.send(("done", n))

    async def _calls(self, name: str, task: Task) -> None:
        reserve = f"{name}.reserve"
        amount = Amount(task.answer, task.answer * PRICE)
        held = await self._hold(reserve, task, amount)
        if held is None:
            return
        self._leases.add(reserve)
        self._point("reserved")
        calls = [self._call(f"{name}.{i}", task, limit) for i, limit in enumerate(task.calls)]
        if self._draw.random() < 0.5:
            await asyncio.gather(*calls)
        else:
            for call in calls:
                await call
        self._leases.discard(reserve)
        await self._call(f"{name}.answer", task, task.answer, instead_of=reserve)

    async def _hold(self, key: str, task: Task, amount: Amount, **more: Any) -> StoredHold | None:
        """None: there is no room, or it has ended meanwhile."""
        asked = clocks.elapsed()
        held = await self._sure(lambda: self._store.hold(key, task.account, amount, lease=LEASE, **more))
        if isinstance(held, Shortage):
            self._orders.send(("refused",))
            return None
        self._live.taken(key, asked, held.left)
        return held if self._note(held).state is HoldState.LIVE else None

    async def _call(self, key: str, task: Task, limit: int, instead_of: str | None = None) -> None:
        at_once = self._draw.random() < 0.5
        self._point("asking")
        amount = Amount(limit, limit * PRICE)
        if await self._hold(key, task, amount, dispatched=at_once, instead_of=instead_of) is None:
            return
        self._leases.add(key)
        self._point("held")
        if not at_once:
            if self._draw.random() < 0.1:  # thought better of it
                self._leases.discard(key)
                self._note(await self._sure(lambda: self._store.refund(key)))
                return
            if not await self._sure(lambda: self._store.dispatch(key)):
                self._leases.discard(key)
                return
        self._point("dispatched")
        try:  # as each request of a scheduler does, right before it leaves
            await self._sure(lambda: self._live.assure([key], key))
        except LeaseLostError:
            self._leases.discard(key)
            return
        reply = self._replies[key] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"call": key, "path": task.ids, "limit": limit}).encode() + b"\n")
        await self._writer.drain()
        self._point("sent")
        try:
            used = await asyncio.wait_for(asyncio.shield(reply), PATIENCE)
        except TimeoutError:  # nobody knows: the lease decides, unless the reply is only late
            self._leases.discard(key)
            return
        self._point("received")
        await self._settle(key, used)
        self._leases.discard(key)
        self._point("settled")

    async def _settle(self, key: str, used: int) -> None:
        self._point("settling")
        self._note(await self._sure(lambda: self._store.settle(key, Amount(used, used * PRICE))))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            said = json.loads(line)
            reply = self._replies[said["call"]]
            if not reply.done():
                reply.set_result(said["used"])
            elif self._draw.random() < 0.5:  # a second copy: settled again, to no effect
                self._start(self._settle(said["call"], said["used"]))
            if said["call"] not in self._leases:  # given up on: settled late, perhaps too late
                self._start(self._settle(said["call"], said["used"]))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE / 3)
            keys = set(self._leases)
            if keys:
                self._leases -= await self._sure(lambda keys=keys: self._live.renew(keys))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._draw.uniform(0.5, 1.5) * LEASE)
            for hold in await self._sure(self._store.expire):
                self._note(hold)


def work(plan: tuple[int, int], *args: Any) -> None:
    """The process. `plan`: how many tasks, and their seed."""
    asyncio.run(Worker(*args).run(tasks(*plan)))
