"""What a scheduler and its calls ask of a durable ledger: a hold in the store before each call is sent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import get_args

from elastic_agent.errors import (
    CapExceededError,
    StoreError,
    StoreForgotError,
    StoreUnavailableError,
    UnknownHoldError,
)
from elastic_agent.validation import MOST_SECONDS, one_of, real

from .. import clocks
from ..accounts import Account, Hold, HoldState
from ..amounts import INFINITY, Shortage
from ..ledger import Ledger
from ..stores.protocol import Spec, Store, StoredHold
from .leases import Leases
from .mirror import Mirror
from .options import LEASE, PATIENCE, Failure
from .own_holds import OwnHolds
from .reserves import Reserve, Reserves
from .store_link import StoreLink
from .write_behind import WriteBehind

log = logging.getLogger(__name__)


class DurableLedger:
    """The durable ledger of one scheduler; the package says how it works.

    Args:
        ledger: the accounts in memory.
        store: the durable ones.
        accounts: where tasks are charged: accounts from the root down, opened if they don't exist, or the
            name of an existing account.
        lease: seconds, see `LEASE`.
        patience: seconds, see `PATIENCE`.
        failure: see `Failure`.
        shared: the store stays open after `aclose`.

    Attributes:
        mirror: the store's accounts in memory.
        holds: what this process holds in the store.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        accounts: str | Sequence[Spec],
        *,
        lease: float = LEASE,
        patience: float = PATIENCE,
        failure: Failure = "closed",
        shared: bool = False,
    ) -> None:
        if not accounts:
            raise ValueError("a store needs accounts=: the name of an account, or Specs from the root down")
        one_of("on_store_failure", failure, get_args(Failure))
        lease = real("lease", lease, above=True, most=MOST_SECONDS, of="seconds")
        self.store, self.lease, self.failure = store, lease, failure
        self.name = accounts if isinstance(accounts, str) else accounts[-1].id
        self._specs = None if isinstance(accounts, str) else tuple(accounts)
        self._shared, self._closed = shared, False
        self.link = StoreLink(store, self.name, patience=patience, lease=lease)
        self.holds = OwnHolds()
        self._leases = Leases(store, lease)
        self.mirror = Mirror(self.link, ledger, self.holds, self._leases)
        self._reserves = Reserves(self.link, self.holds)
        self._ends = WriteBehind(self.link, self.holds, self._leases, self.mirror.acknowledged)
        self._warned: set[str] = set()
        self._opening: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    # For the scheduler

    async def open(self) -> None:
        """Open the accounts and look up what is left. Further calls wait for the first one.

        Raises:
            StoreError: the store has the accounts with other caps, or can't be reached.
        """
        await self.link.there(self._open())

    def account(self) -> Account:
        """The account in memory that tasks are opened in. Blocks for the store if `open` was not awaited."""
        if self.name not in self.mirror.accounts:
            self.link.blocking(self._open())
        return self.mirror.accounts[self.name]

    async def aclose(self) -> None:
        """Give reserves back, wait until all ends are written, let go of the store, end the mirror."""
        if not self._closed:
            self._closed = True
            try:
                await self.link.there(self._close())
            finally:
                await self.link.leave()
                self.mirror.close()

    # For calls

    async def take(self, hold: Hold, *, final: bool = False) -> Shortage | None:
        """Take the hold of a granted call, or of its extension, in the store. Shortage: nothing was taken.

        Args:
            final: the call gives its task's final answer, so the hold takes the place of the task's reserve.

        Raises:
            StoreUnavailableError: the store can't be reached; nothing may be sent.
            TaskClosedError: the store's account is closed.
        """
        try:
            short = await self._take(hold, final)
            if self.mirror.is_old:  # the answer may come from an older state
                await self.link.there(self.mirror.look())
        except StoreForgotError as error:
            self.link.alarm(error)
            self._ends.forget(self.holds.key(hold))
            raise
        return short

    async def assure(self, holds: Sequence[Hold], what: str) -> None:
        """Return if all holds of a granted call still live: then its request may leave. On any loop.

        Args:
            what: names the call, for the error.

        Raises:
            LeaseLostError: a hold has ended: nothing may be sent.
            StoreUnavailableError: the store has to be asked, can't be reached, and calls fail closed.
        """
        if self.link.forgot is not None:
            raise self.link.forgot
        keys = [self.holds.key(hold) for hold in holds]
        if self._leases.live(keys):
            return
        keys = [key for key in keys if not self.holds.is_unheld(key)]
        try:
            await self._leases.assure(keys, what)
        except StoreUnavailableError:
            if self.failure != "open":
                raise
            log.warning("the ledger's store can't be reached: call %s goes on without a lease", keys[0])

    def end(self, hold: Hold) -> None:
        """Write the end that a hold had in memory, without waiting. From any thread."""
        self._ends.end(hold)

    def close(self, task: Account) -> None:
        """Give back the reserve of an outermost task that has ended. From any thread."""
        self.link.soon(self._reserves.give_back(task))

    async def others_hold(self, *, reserves: bool = True) -> bool:
        """Look up what is left; whether other processes hold anything that may come back.

        Args:
            reserves: see `Mirror.others_hold`.
        """
        return await self.link.there(self.mirror.others_hold(reserves))

    async def bind(self, error: CapExceededError) -> CapExceededError:
        """The same error; if an account of the store binds, with the store's own numbers."""
        return await self.mirror.bind(error)

    # Taking a hold

    async def _take(self, hold: Hold, final: bool) -> Shortage | None:
        """In one step on the caller's loop, if the reserve needs no change; otherwise on the thread."""
        if self.link.forgot is not None:
            raise self.link.forgot
        task = self._task(hold)
        simple = self._reserves.get(task) is None if final else self._reserves.is_covered(task)
        if simple and self._keeper is not None:
            try:
                got = await self._ask(hold)
            except StoreUnavailableError:
                pass  # the hold may have been taken; asking again finds out
            except BaseException:
                self._ends.forget(self.holds.key(hold))
                raise
            else:
                if not isinstance(got, Shortage):
                    self._taken(hold)
                    return None
                if final or self._reserves.is_exact(task):
                    return await self.link.there(self._short(got))
        return await self.link.there(self._take_patiently(hold, task, final))

    async def _take_patiently(self, hold: Hold, task: Account, final: bool) -> Shortage | None:
        try:
            await self.link.patiently(self._open)
            return await self.link.patiently(lambda: self._take_on_thread(hold, task, final))
        except StoreUnavailableError:
            key = self.holds.key(hold)
            if self.failure == "open":
                log.warning("the ledger's store can't be reached: call %s leaves without a hold there", key)
                self.holds.sent_without(key)
                self._taken(hold)
                return None
            self._ends.forget(key)  # the hold may have been taken all the same
            raise

    async def _take_on_thread(self, hold: Hold, task: Account, final: bool) -> Shortage | None:
        if final:
            async with self._reserves.changing(task):
                reserve = self._reserves.get(task)
                got = await self._ask(hold, reserve)
                if reserve is not None and not isinstance(got, Shortage):
                    self._reserves.used(task, reserve)
        else:
            if short := await self._reserves.adjust(task):
                return await self._short(short)
            got = await self._ask(hold)
        if isinstance(got, Shortage):
            return await self._short(got)
        self._taken(hold)
        return None

    def _task(self, hold: Hold) -> Account:
        """The outermost task of a hold's call: the account right below the store's accounts.

        Inside a task of another scheduler there is no such account; then the outermost account of all.
        """
        above, path = self.mirror.accounts.get(self.name), hold.account.path
        return next((account for account in path if account.parent is above), path[-1])

    async def _ask(self, hold: Hold, reserve: Reserve | None = None) -> StoredHold | Shortage:
        """Ask the store for a hold, perhaps instead of a reserve. From any loop."""
        key, asked = self.holds.key(hold), clocks.elapsed()
        got = await self.store.hold(
            key,
            self.name,
            hold.amount,
            lease=self.lease,
            seconds=0.0 if hold.until == INFINITY else max(0.0, hold.until - time.monotonic()),
            dispatched=True,
            instead_of=reserve.key if reserve else None,
        )
        if isinstance(got, Shortage):
            return got
        if got.state is not HoldState.LIVE:  # taken by a try whose reply was lost, long ago
            raise StoreError(f"the hold of call {key} ran out before the store could say that it was taken")
        self._leases.taken(key, asked, got.left)
        return got

    def _taken(self, hold: Hold) -> None:
        self.holds.taken(self.holds.key(hold), hold.amount)
        if hold.state is not HoldState.LIVE:  # the call was cancelled, or its task ended, meanwhile
            self.end(hold)

    async def _short(self, short: Shortage) -> Shortage:
        await self.mirror.look()
        return short

    # Opening, keeping, closing: on the thread

    async def _open(self) -> None:
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open_once())
        try:
            await asyncio.shield(self._opening)
        except StoreError:
            self._opening = None  # the next call tries again
            raise

    async def _open_once(self) -> None:
        if self._specs is not None:
            await self.store.open(self._specs)
        await self.mirror.look()
        self._keeper = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        """Renew leases, end the leases of dead processes, look up what is left."""
        while True:
            await asyncio.sleep(self.lease / 3)
            try:
                await self._check_lost(await self._leases.renew(list(self.holds.live)))
                await self.store.expire()
                await self.mirror.look()
            except StoreUnavailableError:
                pass  # the step that waits for the store says so
            except StoreForgotError as error:
                self.link.alarm(error)
            except StoreError as error:  # such as a wrong clock, which may be put right
                log.error("the leases of account %s could not be renewed: %s", self.name, error)

    async def _check_lost(self, ended: set[str]) -> None:
        """Warn of holds that were not renewed in time; the next call takes their reserves anew.

        Raises:
            StoreForgotError: the store does not know a hold.
        """
        lost = self.holds.lost(ended)
        for key in lost - self._reserves.drop(lost) - self._warned:
            try:
                await self.store.refund(key)  # changes nothing: the hold has ended
            except UnknownHoldError as error:
                raise StoreForgotError(f"{error}. This process has taken it: the store forgot") from error
            log.warning("hold %s ran out before its call was over: it was charged whole", key)
        self._warned = lost

    async def _close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        await self._reserves.give_all_back()
        await self.link.drain(lambda: self.holds.ending)
        if not self._shared:
            await self.store.aclose()
