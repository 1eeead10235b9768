"""The store's accounts in memory: a path of accounts above every task.

Their caps are what this process may use: what is left in the store, plus what this process itself holds and
has spent there. They are looked up when a hold is refused and whenever leases are renewed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from elastic_agent.errors import (
    Binding,
    CapExceededError,
    StoreError,
    StoreForgotError,
    UnknownAccountError,
)

from ..accounts import Account
from ..amounts import NOTHING, Amount
from ..ledger import Ledger
from ..stores.protocol import StoredAccount
from .acknowledged import Acknowledged
from .leases import Leases
from .options import TRAVEL_TIME
from .own_holds import OwnHolds
from .store_link import StoreLink


class Mirror:
    """The accounts of one path of the store. All coroutines run on the link's thread.

    Attributes:
        accounts: in memory, by their names in the store, from the root down.
        acknowledged: what the store has acknowledged of the accounts.
        looked: called with the accounts and the time after each look, under the ledger's lock: must be quick.
    """

    def __init__(self, link: StoreLink, ledger: Ledger, holds: OwnHolds, leases: Leases) -> None:
        self.accounts: dict[str, Account] = {}
        self.acknowledged = Acknowledged()
        self.looked: Callable[[Sequence[Account], float], None] = lambda accounts, now: None
        self._link, self._ledger, self._holds, self._leases = link, ledger, holds, leases
        self._connections = 0
        self._one_look: asyncio.Lock | None = None
        self._next_look: asyncio.Future[list[StoredAccount]] | None = None

    @property
    def is_old(self) -> bool:
        """Whether the store was connected to since the last look: the store may be in an older state."""
        return self._connections != self._link.store.connections

    def close(self) -> None:
        """End the accounts in memory; the store's accounts stay as they are."""
        if self.accounts:
            self._ledger.close(self.accounts[self._link.name].root)

    async def look(self) -> list[StoredAccount]:
        """Look up what is left. All callers during one look share the next look.

        Raises:
            StoreForgotError: the store knows less than it has acknowledged.
        """
        if self._next_look is None:
            self._next_look = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._next_look)

    async def _look(self) -> list[StoredAccount]:
        self._one_look = self._one_look or asyncio.Lock()
        async with self._one_look:  # an older answer after a newer one would look like a store that forgot
            self._next_look = None
            now = time.monotonic()  # before the store is asked: the store refuses a deadline that is too late
            try:
                stored = await self._read_checked()
            except StoreForgotError as error:
                self._link.alarm(error)
                raise
        self._set_caps(stored, self._holds.total(), now)
        return stored

    def _set_caps(self, stored: Sequence[StoredAccount], own: Amount, now: float) -> None:
        above: Account | None = None
        with self._ledger.lock:
            for each in reversed(stored):
                name, left = each.spec.id, each.balances()
                account = self.accounts.get(name)
                if account is None:
                    account = self._ledger.open(name, parent=above, now=now)
                account.tokens = int(left["tokens"].available) + own.tokens if "tokens" in left else None
                account.nano = int(left["nano"].available) + own.nano if "nano" in left else None
                ends = None if each.left is None else now - account.opened + each.left - TRAVEL_TIME
                account.set_seconds(ends)
                self.accounts[name] = above = account
            self.looked(list(self.accounts.values()), now)

    async def _read_checked(self) -> list[StoredAccount]:
        """The store's accounts, which may not say less than the store has acknowledged."""
        connections, before = self._link.store.connections, self._held()
        self.acknowledged.looking()
        stored = None
        try:
            stored = await self._link.store.read_accounts(self._link.name)
        except UnknownAccountError as error:
            if self.accounts:
                raise StoreForgotError(
                    f"{error}. This process has used the account: it was closed long ago, or the store was "
                    f"emptied or put back to an older state. Nothing more is held or sent"
                ) from error
            raise
        finally:
            after = self._held()
            self.acknowledged.looked(stored, [amount for key, amount in before.items() if key in after])
        self._connections = connections
        return stored

    def _held(self) -> dict[str, Amount]:
        """What calls of this process hold in the store, beyond doubt."""
        return {key: amount for key, amount in self._holds.certain().items() if self._leases.knows(key)}

    async def others_hold(self, reserves: bool) -> bool:
        """Look up what is left; whether other processes hold anything that may come back.

        Args:
            reserves: whether reserves for final answers count, which come back only when their tasks end.
        """
        stored, own = await self.look(), self._holds.live
        mine = sum(own.values(), NOTHING)
        held = any(not account.held.fits_in(mine) for account in stored)
        if reserves or not held:
            return held
        live = await self._link.store.live(stored[-1].spec.id)
        return any(hold.dispatched and hold.key not in own for hold in live)

    async def bind(self, error: CapExceededError) -> CapExceededError:
        """The same error; if an account of the store binds, with the store's own numbers."""
        bound = error.binding
        names = {account.id: name for name, account in self.accounts.items()}
        if bound is None or not bound.shared or bound.unit == "seconds":
            return error
        name = names.get(bound.account, bound.account)
        try:
            now = await self._link.there(self._binding(bound, name))
        except StoreError:  # the error is true without the numbers
            return error
        text = str(error).replace(str(bound), str(now)).replace(f"of {bound.account!r}", f"of {name!r}")
        return type(error)(text, needed=error.needed, available=error.available, binding=now)

    async def _binding(self, bound: Binding, name: str) -> Binding:
        account = (await self._link.store.read_accounts(name))[0]
        live = await self._link.store.live(name)
        idle = [hold for hold in live if not hold.dispatched]

        def of(amount: Amount) -> int:
            return amount.tokens if bound.unit == "tokens" else amount.nano

        cap = account.spec.tokens if bound.unit == "tokens" else account.spec.nano
        return replace(
            bound,
            account=name,
            cap=bound.cap if cap is None else cap,
            spent=of(account.spent),
            held=of(account.held),
            reserved=sum(of(hold.amount) for hold in idle),
            calls=len(live) - len(idle),
            keepers=tuple(dict.fromkeys(hold.account for hold in idle))[: Binding.NAMED + 1],
            window=account.spec.window,
        )
