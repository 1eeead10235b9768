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
from pathlib import Path
from uuid import uuid4

from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import CapExceededError, StoreError
from elastic_agent.scheduler import clocks
from elastic_agent.scheduler.accounts import Amount
from elastic_agent.scheduler.leases import Leases
from elastic_agent.scheduler.stores import open_store
from elastic_agent.scheduler.stores.base import Lack, Spec, Store

log = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds after which a share of a process that went silent is charged."""


class Share:
    """What a run may spend: `caps`, held in the store until `settle`.

    Args:
        asked, left: when the hold was asked for, and what its lease had left; see `Leases.taken`.
    """

    def __init__(
        self, store: Store, key: str, caps: Caps, lease: float, *, asked: float, left: float
    ) -> None:
        self.caps = caps
        self._store, self._key, self._lease = store, key, lease
        self._leases = Leases(store, lease)
        self._leases.taken(key, asked, left)
        self._keeper = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                lost = await self._leases.renew([self._key])
            except StoreError as error:  # the next time may do, before the lease ends
                log.warning("share %s could not be renewed: %s", self._key, error)
                continue
            if lost:
                log.warning("share %s ran out before its run was over: it was charged whole", self._key)
                return

    async def assure(self) -> None:
        """Right before a request of the run leaves: return if the share is still held.

        Raises:
            LeaseLostError: it has ended: nothing may be sent.
            StoreUnavailableError: the store has to be asked, and can't be reached.
        """
        await self._leases.assure([self._key], f"share {self._key}")

    async def settle(self, spent: Amount) -> None:
        """Give back what was not spent. Where the store stays away, its lease charges the whole."""
        self._keeper.cancel()
        for pause in (0.1, 0.5, 2.0, 10.0, 0.0):
            try:
                await self._store.settle(self._key, spent)
                return
            except StoreError as error:
                log.warning("share %s could not be settled: %s", self._key, error)
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
        self._store = open_store(store) if isinstance(store, str | Path) else store
        self._caps, self._lease = caps, lease

    async def take(self, account: str, run: Caps | None) -> Share:
        """A share of the account: at most `run`, at most what is left.

        Raises:
            CapExceededError: nothing is left.
            StoreError: the store can't be reached, or has the account with other caps.
        """
        caps = self._caps
        await self._store.open([Spec(account, caps.tokens, caps.nanodollars)])
        while True:
            await self._store.expire()
            (level, *_) = await self._store.books(account)
            left = {unit: int(balance.available) for unit, balance in level.balances().items()}
            if min(left.values()) <= 0:
                there = {u if u == "tokens" else "usd": _edge(u, max(0, n)) for u, n in left.items()}
                raise CapExceededError(
                    f"account {account!r} has nothing left ({there}): raise its caps, or wait for other runs",
                    needed=dict.fromkeys(there, 0.0),
                    available=there,
                )
            tokens = _least(left.get("tokens"), None if run is None else run.tokens)
            nano = _least(left.get("nano"), None if run is None else run.nanodollars)
            key = f"{account}-{uuid4().hex[:12]}"
            amount = Amount(tokens or 0, nano or 0)
            asked = clocks.elapsed()
            got = await self._store.hold(key, account, amount, lease=self._lease, dispatched=True)
            if not isinstance(got, Lack):  # else another run was faster
                usd = None if nano is None else to_usd(nano)
                seconds = None if run is None else run.seconds
                own = Caps(usd=usd, tokens=tokens, seconds=seconds)
                return Share(self._store, key, own, self._lease, asked=asked, left=got.left)

    async def spent(self, account: str) -> Amount:
        """What the account was charged so far."""
        return (await self._store.books(account))[0].spent


def _least(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return min(known, default=None)


def _edge(unit: str, amount: int) -> float:
    return float(to_usd(amount)) if unit == "nano" else amount
