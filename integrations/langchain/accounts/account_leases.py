"""Leases of an account in a durable store: what one run may spend of its thread's caps.

A lease is a hold on the account for all that the run may spend, taken before the run's first call and settled
with what the run has spent. It is renewed while the run lives. When the run's process dies, the lease runs
out and its whole amount is charged, because the spending is unknown. A lease takes at most what other leases
of the account have left.

Everything runs on the blocking portal's loop, because a store's connections belong to one loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
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
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store, StoredAccount

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""Seconds after which the lease of a silent process is charged."""
_SETTLE_SECONDS = 2.0
"""Seconds for which a new lease waits until the leases of runs that have just ended are settled."""
_SETTLE_PAUSES = (0.1, 0.5, 2.0, 10.0, 0.0)
"""Seconds between tries to settle; then the lease runs out, and its whole amount is charged."""


class AccountLease:
    """What one run may spend: `caps`, held in the store until `settle`.

    A lease that is garbage-collected before `settle` was never used, and is given back.
    """

    def __init__(self, accounts: LeasedAccounts, key: str, caps: Caps, *, asked: float, left: float) -> None:
        self.caps = caps
        self._store, self._settling, self._key = accounts.store, accounts.settling, key
        self._leases = Leases(self._store, accounts.seconds)
        self._leases.taken(key, asked, left)
        # In an empty context: the caller's would keep what it refers to alive as long as the task runs
        renewing = _renew(ref(self), self._leases, self._store, key)
        self._renewing = asyncio.get_running_loop().create_task(renewing, context=Context())

    async def assure(self) -> None:
        """Return if the lease still holds. Called right before a request of the run leaves.

        Raises:
            LeaseLostError: it has run out: nothing may be sent.
            StoreUnavailableError: the store has to be asked, and can't be reached.
        """
        await self._leases.assure([self._key], f"lease {self._key}")

    async def settle(self, spent: Amount) -> None:
        """Give back what was not spent. While the store can't be reached the whole amount stays held."""
        me = asyncio.current_task()
        assert me is not None
        self._settling.add(me)
        try:
            self._renewing.cancel()
            await _settle(self._store, self._key, spent)
        finally:
            self._settling.discard(me)


async def _renew(lease: ref[AccountLease], leases: Leases, store: Store, key: str) -> None:
    while lease() is not None:
        await asyncio.sleep(leases.seconds / 3)
        try:
            lost = await leases.renew([key])
        except StoreError as error:  # the next try may still come in time
            log.warning("lease %s could not be renewed: %s", key, error)
            continue
        if lost:
            log.warning("lease %s ran out before its run was over: its whole amount was charged", key)
            return
    await _settle(store, key, NOTHING)


async def _settle(store: Store, key: str, spent: Amount) -> None:
    for pause in _SETTLE_PAUSES:
        try:
            await store.settle(key, spent)
            return
        except StoreError as error:
            log.warning("lease %s could not be settled: %s", key, error)
            await asyncio.sleep(pause)


class LeasedAccounts:
    """Accounts of a store, by name, of which runs take leases.

    Args:
        store: the durable ledger, or where it is; "memory://" is this process's.
        caps: of each account, in `usd` and `tokens`.
        seconds: length of a lease.

    Raises:
        ValueError: caps in seconds, which only a run can have.
    """

    def __init__(self, store: Store | str | Path, caps: Caps, *, seconds: float = LEASE_SECONDS) -> None:
        if caps.seconds is not None:
            raise ValueError("seconds= can cap a run, not a thread: it may rest for days between two runs")
        self._where, self._caps, self.seconds = store, caps, seconds
        self._connect()

    def _connect(self) -> None:
        where = self._where
        self.store = open_store(where) if isinstance(where, str | Path) else where
        self._process = os.getpid()
        self.settling: set[asyncio.Task[None]] = set()

    async def lease(self, account: str, run: Caps | None) -> AccountLease:
        """A lease of the account: at most `run`, at most what is left.

        Raises:
            CapExceededError: nothing is left.
            StoreError: the store can't be reached, has the account with other caps, or is in the memory of
                the process that this one was forked from.
        """
        self._after_fork()
        if self.settling:  # runs that have just ended
            await asyncio.wait(self.settling, timeout=_SETTLE_SECONDS)
        await self.store.open([Spec(account, self._caps.tokens, self._caps.nanodollars)])
        while True:
            await self.store.expire()
            (level, *_) = await self.store.read_accounts(account)
            left = {unit: int(balance.available) for unit, balance in level.balances().items()}
            if min(left.values()) <= 0:
                raise _nothing_left(account, level, left)
            tokens = _least(left.get("tokens"), None if run is None else run.tokens)
            nano = _least(left.get("nano"), None if run is None else run.nanodollars)
            key = f"{account}-{uuid4().hex[:12]}"
            asked = clocks.elapsed()
            hold = self.store.hold(
                key, account, Amount(tokens or 0, nano or 0), lease=self.seconds, dispatched=True
            )
            try:
                held = await hold
            except asyncio.CancelledError:  # the store may have taken the hold
                giving_back = asyncio.create_task(_settle(self.store, key, NOTHING), context=Context())
                self.settling.add(giving_back)
                giving_back.add_done_callback(self.settling.discard)
                raise
            if not isinstance(held, Shortage):  # else another run took it first: look again
                usd = None if nano is None else to_usd(nano)
                caps = Caps(usd=usd, tokens=tokens, seconds=None if run is None else run.seconds)
                return AccountLease(self, key, caps, asked=asked, left=held.left)

    def _after_fork(self) -> None:
        """Connect anew in a forked process: connections and threads don't survive a fork."""
        if self._process == os.getpid():
            return
        if not isinstance(self._where, str | Path) or self._where == "memory://":
            raise StoreError(
                "the accounts of threads are in the memory of the process that this one was forked from: "
                "share them with store='spend.db' or another that both can open"
            )
        self._connect()

    async def spent(self, account: str) -> Amount:
        """What the account was charged so far."""
        return (await self.store.read_accounts(account))[0].spent


def _nothing_left(account: str, level: StoredAccount, left: Mapping[str, int]) -> CapExceededError:
    available = {
        "tokens" if unit == "tokens" else "usd": float(to_usd(max(0, n))) if unit == "nano" else max(0, n)
        for unit, n in left.items()
    }
    unit = min(left, key=lambda one: left[one])
    balance = level.balances()[unit]
    binding = Binding(account, unit, balance.cap, balance.spent, balance.held, shared=True)
    return CapExceededError(
        f"account {account!r} has nothing left. {binding}. Raise {binding.argument}= of thread=, or wait for "
        f"its other runs",
        needed=dict.fromkeys(available, 0.0),
        available=available,
        binding=binding,
    )


def _least(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return min(known, default=None)
