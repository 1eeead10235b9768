"""Shares of an account in a durable store: what one run may use of a thread's, or of another process's, caps.

A share is a hold on the account for all that the run may spend, taken before its first call and settled with
what it spent. While the run lives its lease is renewed; when its process dies the lease ends and the whole
share is charged, since nobody knows what was spent. Where several runs share an account at one moment, each
gets what the others have left of it.

Everything runs on the portal's loop, since a store's connections belong to one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextvars import Context
from pathlib import Path
from uuid import uuid4
from weakref import ref

from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import Binding, CapExceededError, StoreError
from elastic_agent.scheduler.ledger import clocks
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount, Shortage
from elastic_agent.scheduler.ledger.durable.leases import Leases
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store

log = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds after which a share of a process that went silent is charged."""
_PATIENCE = 2.0
"""Seconds that a new share waits for those of runs that have just ended."""


class Share:
    """What a run may spend: `caps`, held in the store until `settle`. One that is lost unsettled was never
    used, and is given back.

    Args:
        asked, left: when the hold was asked for, and what its lease had left; see `Leases.taken`.
        settling: where a share is while it is settled.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        caps: Caps,
        lease: float,
        settling: set[asyncio.Task[None]],
        *,
        asked: float,
        left: float,
    ) -> None:
        self.caps = caps
        self._store, self._key, self._settling = store, key, settling
        self._leases = Leases(store, lease)
        self._leases.taken(key, asked, left)
        # In a context of its own: in its maker's, the keeper would keep alive what runs there
        keep = _keep(ref(self), self._leases, store, key, lease)
        self._keeper = asyncio.get_running_loop().create_task(keep, context=Context())

    async def assure(self) -> None:
        """Right before a request of the run leaves: return if the share is still held.

        Raises:
            LeaseLostError: it has ended: nothing may be sent.
            StoreUnavailableError: the store has to be asked, and can't be reached.
        """
        await self._leases.assure([self._key], f"share {self._key}")

    async def settle(self, spent: Amount) -> None:
        """Give back what was not spent. Where the store stays away, its lease charges the whole."""
        me = asyncio.current_task()
        assert me is not None
        self._settling.add(me)
        try:
            self._keeper.cancel()
            await _settle(self._store, self._key, spent)
        finally:
            self._settling.discard(me)


async def _keep(share: ref[Share], leases: Leases, store: Store, key: str, lease: float) -> None:
    while share() is not None:
        await asyncio.sleep(lease / 3)
        try:
            lost = await leases.renew([key])
        except StoreError as error:  # the next time may do, before the lease ends
            log.warning("share %s could not be renewed: %s", key, error)
            continue
        if lost:
            log.warning("share %s ran out before its run was over: it was charged whole", key)
            return
    await _settle(store, key, NOTHING)


async def _settle(store: Store, key: str, spent: Amount) -> None:
    for pause in (0.1, 0.5, 2.0, 10.0, 0.0):
        try:
            await store.settle(key, spent)
            return
        except StoreError as error:
            log.warning("share %s could not be settled: %s", key, error)
            await asyncio.sleep(pause)


class Shares:
    """Accounts of a store, by name.

    Args:
        store: the durable ledger, or where it is; "memory://" is this process's.
        caps: of each account, in `usd` and `tokens`.
        lease: seconds, see `LEASE`.

    Raises:
        ValueError: caps in seconds, which belong to a run.
    """

    def __init__(self, store: Store | str | Path, caps: Caps, *, lease: float = LEASE) -> None:
        if caps.seconds is not None:
            raise ValueError("seconds= can cap a run, not a thread: it may rest for days between two runs")
        self._where, self._caps, self._lease = store, caps, lease
        self._connect()

    def _connect(self) -> None:
        where = self._where
        self._store = open_store(where) if isinstance(where, str | Path) else where
        self._process = os.getpid()
        self._settling: set[asyncio.Task[None]] = set()

    async def take(self, account: str, run: Caps | None) -> Share:
        """A share of the account: at most `run`, at most what is left.

        Raises:
            CapExceededError: nothing is left.
            StoreError: the store can't be reached, or has the account with other caps; or it is in the
                memory of the process that this one was forked from.
        """
        caps = self._caps
        if self._process != os.getpid():  # connections and threads don't survive a fork
            if not isinstance(self._where, str | Path) or self._where == "memory://":
                raise StoreError(
                    "the accounts of threads are in the memory of the process that this one was forked from: "
                    "share them with store='spend.db' or another that both can open"
                )
            self._connect()
        if self._settling:  # runs that have just ended
            await asyncio.wait(self._settling, timeout=_PATIENCE)
        await self._store.open([Spec(account, caps.tokens, caps.nanodollars)])
        while True:
            await self._store.expire()
            (level, *_) = await self._store.books(account)
            left = {unit: int(balance.available) for unit, balance in level.balances().items()}
            if min(left.values()) <= 0:
                there = {u if u == "tokens" else "usd": _edge(u, max(0, n)) for u, n in left.items()}
                unit = min(left, key=lambda one: left[one])
                balance = level.balances()[unit]
                bound = Binding(account, unit, balance.cap, balance.spent, balance.held, shared=True)
                raise CapExceededError(
                    f"account {account!r} has nothing left. {bound}. Raise {bound.argument}= of thread=, or "
                    f"wait for its other runs",
                    needed=dict.fromkeys(there, 0.0),
                    available=there,
                    binding=bound,
                )
            tokens = _least(left.get("tokens"), None if run is None else run.tokens)
            nano = _least(left.get("nano"), None if run is None else run.nanodollars)
            key = f"{account}-{uuid4().hex[:12]}"
            amount = Amount(tokens or 0, nano or 0)
            asked = clocks.elapsed()
            try:
                got = await self._store.hold(key, account, amount, lease=self._lease, dispatched=True)
            except asyncio.CancelledError:  # it may have been made
                giving = asyncio.create_task(_settle(self._store, key, NOTHING), context=Context())
                self._settling.add(giving)
                giving.add_done_callback(self._settling.discard)
                raise
            if not isinstance(got, Shortage):  # else another run was faster
                usd = None if nano is None else to_usd(nano)
                seconds = None if run is None else run.seconds
                own = Caps(usd=usd, tokens=tokens, seconds=seconds)
                return Share(self._store, key, own, self._lease, self._settling, asked=asked, left=got.left)

    async def spent(self, account: str) -> Amount:
        """What the account was charged so far."""
        return (await self._store.books(account))[0].spent


def _least(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return min(known, default=None)


def _edge(unit: str, amount: int) -> float:
    return float(to_usd(amount)) if unit == "nano" else amount
