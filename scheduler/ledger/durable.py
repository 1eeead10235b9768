"""One process's link to a durable ledger: no call leaves without a hold that outlives this process.

The desk plans on the books in memory; the store has the last word. A granted call takes its hold there, for
the same amount and already marked as dispatched, and only then is it sent. Where the store lacks room,
because other processes have spent or hold it, the call goes back to the desk, which decides again with what
is really left: it shrinks, waits or is refused.

In memory the store's accounts are a line of accounts above every task. Their caps are what this process may
use: what the store says is left, and what this process itself holds and has spent. They are looked up when a
hold is refused and whenever leases are renewed.

Ends are written behind: a settled call does not wait for the store, and its end goes there with the next
hold. What could not be written by the end of the lease is charged whole, so the books never say less than the
meter.

A task's reserve for its final answer is a hold of its own that nothing was sent on; it comes back when the
task ends or its process dies. It is brought up to what it is in memory before a call leaves, and down to that
some time later.

Mostly a call's hold is one step, asked of the store from wherever the call runs. All that is not so simple
(reserves, final answers, a store that is away, looking up what is left) runs on one thread with one event
loop, which every durable ledger of the process shares.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args
from uuid import uuid4

from elastic_agent.budget import Caps
from elastic_agent.errors import (
    Binding,
    CapExceededError,
    InvalidValueError,
    StoreError,
    StoreForgotError,
    StoreUnavailableError,
    UnknownAccountError,
    UnknownHoldError,
)
from elastic_agent.validation import MOST_SECONDS, one_of, real, shown

from . import clocks
from .accounts import Account, Hold, HoldState
from .acknowledged import Acknowledged
from .amounts import INFINITY, NOTHING, Amount, Shortage
from .leases import Leases
from .ledger import Ledger
from .shared_loop import SharedLoop
from .stores.protocol import Level, Spec, Store, StoredHold, Window

LEASE = 60.0
"""Seconds for which a hold outlives a process that has gone silent."""
PATIENCE = 10.0
"""Seconds for which a store that can't be reached is asked again before a call is refused."""
WAY = 0.1
"""Seconds that a hold may take to reach the store: so long before its account ends a call is over."""
AGAIN = 0.25
"""Seconds between two such tries."""
SOON = 0.002
"""Seconds between two looks at whether all is written."""

THREAD = SharedLoop("ledger")

Failure = Literal["closed", "open"]
"""What happens to a call while the store can't be reached: refused, or sent and written down afterwards."""

T = TypeVar("T")


def account(name: str, caps: Caps | None = None, *, window: Window | None = None) -> Spec:
    """One of `BudgetScheduler`'s `accounts=`, in dollars.

    Args:
        name: unique in the store; "acme/alice" is a name like any other.
        caps: what everything charged to it may cost together; None: whatever the accounts above allow.
        window: the caps are for each UTC day or month; None: for its lifetime. For both: two accounts.

    Raises:
        InvalidValueError: no name, or a window that is neither "day" nor "month".
    """
    if type(name) is not str or not name:
        raise InvalidValueError(f"an account needs a name, like 'acme/alice', not {shown(name)}")
    if window is not None:
        one_of("window", window, get_args(Window))
    if caps is None:
        return Spec(name, window=window)
    return Spec(name, caps.tokens, caps.nanodollars, caps.seconds, window)


log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reserve:
    """What the store holds for a task's final answer."""

    key: str
    amount: Amount


class Durable:
    """See the module.

    Args:
        ledger: the books in memory.
        store: the durable ones.
        accounts: where tasks are charged: accounts from the root down, opened when they don't exist, or the
            name of one that exists.
        lease: seconds, see `LEASE`.
        patience: seconds, see `PATIENCE`.
        failure: see `Failure`.
        shared: the store stays open when this is closed.

    Attributes:
        looked: told of the accounts in memory, from the root down, whenever their caps were looked up, under
            the lock: it must only pass it on.
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
            raise ValueError("a store needs accounts=: the name of one, or Specs from the root down")
        one_of("on_store_failure", failure, get_args(Failure))
        lease = real("lease", lease, above=True, most=MOST_SECONDS, of="seconds")
        self.store, self.lease, self.patience, self.failure = store, lease, patience, failure
        self._leases = Leases(store, lease)
        self._acknowledged, self._connections = Acknowledged(), 0
        self._forgot: StoreForgotError | None = None
        self._one_look: asyncio.Lock | None = None
        self._next_look: asyncio.Future[list[Level]] | None = None
        self.name = accounts if isinstance(accounts, str) else accounts[-1].id
        self._specs = None if isinstance(accounts, str) else tuple(accounts)
        self._ledger, self._shared = ledger, shared
        self.looked: Callable[[Sequence[Account], float], None] = lambda accounts, now: None
        self._mirror: dict[str, Account] = {}
        self._maker = uuid4().hex[:12]
        self._guard = threading.Lock()  # of the next four
        self._live: dict[str, Amount] = {}
        self._ending: set[str] = set()
        self._unheld: set[str] = set()
        self._charged = NOTHING
        self._reserves: dict[Account, Reserve] = {}
        self._changing: dict[Account, asyncio.Lock] = {}
        self._warned: set[str] = set()
        self._behind: set[asyncio.Task[None]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._loop = THREAD.enter()
        self._closed = self._shut = False

    # For the scheduler

    async def open(self) -> None:
        """Open the accounts and look up what is left; a second time it only waits for that.

        Raises:
            StoreError: they contradict those that the store has, or it can't be reached.
        """
        await self._there(self._open())

    def account(self) -> Account:
        """The account in memory that every task is opened in. Blocks where `open` was not awaited before."""
        if self.name not in self._mirror:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self._mirror[self.name]

    async def aclose(self) -> None:
        """Write what is still to be written, give reserves back, let go of the store."""
        if not self._closed:
            self._closed = True
            try:
                await self._there(self._end())
            finally:
                await asyncio.to_thread(THREAD.leave, self._loop)

    # For calls

    async def take(self, hold: Hold, *, final: bool = False) -> Shortage | None:
        """Take the hold of a granted call, or of its raise, in the store. Shortage: nothing was taken.

        Args:
            final: the call gives its task's final answer, so the hold may use the task's reserve.

        Raises:
            StoreUnavailableError: the store can't be reached; nothing may be sent.
            TaskClosedError: the account was closed.
        """
        try:
            short = await self._try_to_take(hold, final)
            if self._connections != self.store.connections:  # what answered may be an older state
                await self._there(self._look())
        except StoreForgotError as error:
            self._alarm(error)
            self._behind_soon(self._forget(self._key(hold)))
            raise
        return short

    async def _try_to_take(self, hold: Hold, final: bool) -> Shortage | None:
        if self._forgot is not None:
            raise self._forgot
        task = self._task(hold)
        simple = task not in self._reserves if final else self._covered(task)
        if simple and self._keeper is not None:
            try:
                got = await self._ask(hold)
            except StoreUnavailableError:
                pass  # it may have been taken; asking again finds out
            except BaseException:
                self._behind_soon(self._forget(self._key(hold)))
                raise
            else:
                if not isinstance(got, Shortage):
                    self._taken(hold)
                    return None
                if final or self._reserved(task):
                    return await self._there(self._short(got))
        return await self._there(self._take(hold, final))

    async def assure(self, holds: Sequence[Hold], what: str) -> None:
        """Right before a request of a granted call leaves: return if all its holds still live. On any loop.

        Args:
            what: names the call, for the error.

        Raises:
            LeaseLostError: one has ended: nothing may be sent.
            StoreUnavailableError: the store has to be asked, and can't be reached, and calls fail closed.
        """
        if self._forgot is not None:
            raise self._forgot
        keys = [self._key(hold) for hold in holds]
        if self._leases.live(keys):
            return
        keys = [key for key in keys if key not in self._unheld]
        try:
            await self._leases.assure(keys, what)
        except StoreUnavailableError:
            if self.failure != "open":
                raise
            log.warning("the ledger's store can't be reached: call %s goes on without a lease", keys[0])

    def end(self, hold: Hold) -> None:
        """A hold has ended in memory: write it behind. From any thread."""
        key = self._key(hold)
        with self._guard:
            if self._shut or key not in self._live or key in self._ending:
                return  # it was never taken there, or its end is on its way
            self._ending.add(key)
            held = key not in self._unheld
        if not held:
            self._behind_soon(self._finish(hold))
        else:
            charged = None if hold.state is HoldState.REFUNDED else hold.charged
            sent = self._acknowledged.sent
            self.store.end_soon(key, charged, lambda answer: self._answered(hold, answer, sent))

    def close(self, task: Account) -> None:
        """An outermost task has ended: its reserve comes back. From any thread."""
        self._behind_soon(self._give_back(task))

    async def others_hold(self, *, reserves: bool = True) -> bool:
        """Look up what is left; whether others hold anything that may come back.

        Args:
            reserves: count what is reserved for final answers, which comes back when its task ends; without
                it, only calls count: they end by themselves.
        """
        return await self._there(self._others_hold(reserves))

    async def bind(self, error: CapExceededError) -> CapExceededError:
        """The same error, with the store's own numbers where the account that binds is one of the store's."""
        bound = error.binding
        names = {account.id: name for name, account in self._mirror.items()}
        if bound is None or not bound.shared or bound.unit == "seconds":
            return error
        name = names.get(bound.account, bound.account)
        try:
            now = await self._there(self._binding(bound, name))
        except StoreError:  # the error is true without them
            return error
        text = str(error).replace(str(bound), str(now)).replace(f"of {bound.account!r}", f"of {name!r}")
        return type(error)(text, needed=error.needed, available=error.available, binding=now)

    # On the thread

    async def _open(self) -> None:
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._do_open())
        try:
            await asyncio.shield(self._opening)
        except StoreError:
            self._opening = None  # the next call tries again
            raise

    async def _do_open(self) -> None:
        if self._specs is not None:
            await self.store.open(self._specs)
        await self._look()
        self._keeper = asyncio.ensure_future(self._keep())

    async def _look(self) -> list[Level]:
        """Caps in memory = what the store says is left + what this process holds there and has spent.

        All who ask while another look is under way share the next one.
        """
        if self._next_look is None:
            self._next_look = asyncio.ensure_future(self._do_look())
        return await asyncio.shield(self._next_look)

    async def _do_look(self) -> list[Level]:
        self._one_look = self._one_look or asyncio.Lock()
        async with self._one_look:  # an older view after a newer one would look as if something was forgotten
            self._next_look = None
            now = time.monotonic()  # before the store looks: a deadline that is late is one that it refuses
            try:
                levels = await self._checked_books()
            except StoreForgotError as error:
                self._alarm(error)
                raise
        with self._guard:
            own = sum(self._live.values(), self._charged)
        above: Account | None = None
        with self._ledger.lock:
            for level in reversed(levels):
                name, left = level.spec.id, level.balances()
                account = self._mirror.get(name)
                if account is None:
                    account = self._ledger.open(name, parent=above, now=now)
                account.tokens = int(left["tokens"].available) + own.tokens if "tokens" in left else None
                account.nano = int(left["nano"].available) + own.nano if "nano" in left else None
                account.set_seconds(None if level.left is None else now - account.opened + level.left - WAY)
                self._mirror[name] = above = account
            self.looked(list(self._mirror.values()), now)
        return levels

    async def _checked_books(self) -> list[Level]:
        """The books, which may not say less than what the store has acknowledged."""
        known, connections = self._acknowledged, self.store.connections
        with self._guard:
            before = self._held()
            known.looking()
        levels = None
        try:
            levels = await self.store.books(self.name)
        except UnknownAccountError as error:
            if self._mirror:
                raise StoreForgotError(
                    f"{error}. This process has used it: it was closed long ago, or the store was emptied or "
                    f"put back to an older state. Nothing more is held or sent"
                ) from error
            raise
        finally:
            with self._guard:
                after = self._held()
                known.looked(levels, [amount for key, amount in before.items() if key in after])
        self._connections = connections
        return levels

    def _held(self) -> dict[str, Amount]:
        """What calls of this process hold in the store, beyond doubt."""
        idle = self._ending | self._unheld
        return {
            key: amount for key, amount in self._live.items() if key not in idle and self._leases.knows(key)
        }

    def _alarm(self, error: StoreForgotError) -> None:
        """Nothing is held or sent any more by this process."""
        if self._forgot is None:
            self._forgot = error
            log.critical("the ledger's store forgot, and calls on account %s stop: %s", self.name, error)

    async def _take(self, hold: Hold, final: bool) -> Shortage | None:
        try:
            await self._patiently(self._open)
            return await self._patiently(lambda: self._do_take(hold, final))
        except StoreUnavailableError:
            key = self._key(hold)
            if self.failure == "open":
                log.warning("the ledger's store can't be reached: call %s leaves without a hold there", key)
                with self._guard:
                    self._unheld.add(key)
                self._taken(hold)
                return None
            self._behind_soon(self._forget(key))  # it may have been taken all the same
            raise

    async def _do_take(self, hold: Hold, final: bool) -> Shortage | None:
        task = self._task(hold)
        if final:
            async with self._lock(task):
                return await self._hold(task, hold, self._reserves.get(task))
        if short := await self._reserve(task):
            return await self._short(short)
        return await self._hold(task, hold, None)

    def _task(self, hold: Hold) -> Account:
        """The outermost task of a hold's call: the account right below those of the store."""
        return next(a for a in hold.account.path if a.parent is self._mirror.get(self.name))

    def _lock(self, task: Account) -> asyncio.Lock:
        """For whoever changes a task's reserve: in parallel, one hold of it would be forgotten."""
        return self._changing.setdefault(task, asyncio.Lock())

    async def _hold(self, task: Account, hold: Hold, reserve: Reserve | None) -> Shortage | None:
        got = await self._ask(hold, reserve)
        if isinstance(got, Shortage):
            return await self._short(got)
        if reserve is not None:
            with self._guard:
                self._live.pop(reserve.key, None)
            if self._reserves.get(task) is reserve:  # its task may have ended meanwhile
                del self._reserves[task]
        self._taken(hold)
        return None

    async def _ask(self, hold: Hold, reserve: Reserve | None = None) -> StoredHold | Shortage:
        """The one step that mostly is all. From any loop."""
        key, asked = self._key(hold), clocks.elapsed()
        got = await self.store.hold(
            key,
            self.name,
            hold.amount,
            lease=self.lease,
            seconds=0.0 if hold.until == INFINITY else max(0.0, hold.until - time.monotonic()),
            dispatched=True,
            instead_of=reserve.key if reserve else None,
        )
        if isinstance(got, StoredHold) and got.state is not HoldState.LIVE:
            # taken by a try whose reply was lost, long ago
            raise StoreError(f"the hold of call {key} ran out before the store could say that it was taken")
        if isinstance(got, StoredHold):
            self._leases.taken(key, asked, got.left)
        return got

    def _taken(self, hold: Hold) -> None:
        with self._guard:
            self._live[self._key(hold)] = hold.amount
        if hold.state is not HoldState.LIVE:  # its caller went, or its task ended, while this was under way
            self.end(hold)

    async def _reserve(self, task: Account) -> Shortage | None:
        """Bring a task's reserve in the store to what it is in memory."""
        if self._reserved(task):
            return None
        async with self._lock(task):
            return None if self._reserved(task) else await self._change(task)

    def _reserved(self, task: Account) -> bool:
        have = self._reserves.get(task)
        return task.closed or task.reserve == (have.amount if have else NOTHING)

    def _covered(self, task: Account) -> bool:
        """Whether a call may leave with the task's reserve as the store has it. From any thread.

        One that is far too large is brought down meanwhile.
        """
        wish, have = task.reserve, self._reserves.get(task)
        if have is None:
            return wish == NOTHING
        if 4 * wish.tokens < 3 * have.amount.tokens and not self._lock(task).locked():
            self._behind_soon(self._lower(task))
        return wish.fits_in(have.amount)

    async def _lower(self, task: Account) -> None:
        with suppress(StoreError):  # then the next who looks does it
            await self._reserve(task)

    async def _change(self, task: Account) -> Shortage | None:
        have, wish = self._reserves.get(task), task.reserve
        key = f"{self._maker}-{task.id[-80:]}-reserve-{uuid4().hex[:8]}"
        got = await self.store.hold(
            key, self.name, wish, lease=self.lease, instead_of=have.key if have else None
        )
        if isinstance(got, Shortage):
            return got
        with self._guard:
            if have is not None:
                self._live.pop(have.key, None)
            self._live[key] = wish
        self._reserves[task] = Reserve(key, wish)
        if task.closed:  # meanwhile
            await self._give_back(task)
        return None

    async def _short(self, lack: Shortage) -> Shortage:
        await self._look()
        return lack

    async def _others_hold(self, reserves: bool) -> bool:
        levels = await self._look()
        with self._guard:
            own = dict(self._live)
        mine = sum(own.values(), NOTHING)
        held = any(level.held.tokens > mine.tokens or level.held.nano > mine.nano for level in levels)
        if reserves or not held:
            return held
        live = await self.store.live(levels[-1].spec.id)
        return any(hold.dispatched and hold.key not in own for hold in live)

    async def _binding(self, bound: Binding, name: str) -> Binding:
        level = (await self.store.books(name))[0]
        live = await self.store.live(name)
        idle = [hold for hold in live if not hold.dispatched]

        def of(amount: Amount) -> int:
            return amount.tokens if bound.unit == "tokens" else amount.nano

        cap = level.spec.tokens if bound.unit == "tokens" else level.spec.nano
        return replace(
            bound,
            account=name,
            cap=bound.cap if cap is None else cap,
            spent=of(level.spent),
            held=of(level.held),
            reserved=sum(of(hold.amount) for hold in idle),
            calls=len(live) - len(idle),
            keepers=tuple(dict.fromkeys(hold.account for hold in idle))[: Binding.NAMED + 1],
            window=level.spec.window,
        )

    def _answered(self, hold: Hold, answer: StoredHold | BaseException, sent: int) -> None:
        """The store was told of an end, or could not be. On one of its threads."""
        if isinstance(answer, BaseException):
            self._behind_soon(self._finish(hold))
            return
        if answer.state is HoldState.SETTLED:
            with self._guard:
                self._acknowledged.charged(answer.charged, sent)
        self._ended(hold)

    def _ended(self, hold: Hold) -> None:
        with self._guard:
            key = self._key(hold)
            self._live.pop(key, None)
            self._ending.discard(key)
            self._charged += hold.charged
        self._leases.ended(key)

    async def _finish(self, hold: Hold) -> None:
        """An end that the store was not told of at once."""
        key = self._key(hold)
        if key in self._unheld:  # an empty hold carries the charge
            with self._guard:
                self._unheld.remove(key)
            with suppress(StoreError):  # it was taken after all, unseen
                await self._write(
                    lambda: self.store.hold(key, self.name, NOTHING, lease=self.lease, dispatched=True)
                )
        try:
            if hold.state is HoldState.REFUNDED:
                await self._write(lambda: self.store.refund(key))
            else:
                await self._write(lambda: self.store.settle(key, hold.charged))
        except UnknownHoldError as error:
            self._alarm(StoreForgotError(f"{error}. This process has taken it: the store forgot"))
        except StoreForgotError as error:
            self._alarm(error)
        except StoreError as error:
            log.error("the store does not take the end of call %s: %s", key, error)
        self._ended(hold)

    async def _give_back(self, task: Account) -> None:
        self._changing.pop(task, None)
        reserve = self._reserves.pop(task, None)
        if reserve is not None:
            await self._write(lambda: self.store.refund(reserve.key))
            with self._guard:
                self._live.pop(reserve.key, None)

    async def _forget(self, key: str) -> None:
        """A hold that may or may not have been taken; nothing was sent on it."""
        with suppress(StoreError):
            await self._write(lambda: self.store.refund(key))

    async def _write(self, step: Callable[[], Awaitable[object]]) -> None:
        """A step that has to happen, as often as it takes; some time after the lease it is left to that."""
        try:
            await self._tried(step, 2 * self.lease)
        except StoreUnavailableError as error:
            log.error("the ledger's store was away for too long; leases end what is held: %s", error)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step that a call waits for."""
        try:
            return await self._tried(step, self.patience)
        except StoreUnavailableError as error:
            raise StoreUnavailableError(
                f"the ledger's store can't be reached since {self.patience:g} s, and no call leaves without "
                f"a hold there: {error}"
            ) from error

    async def _tried(self, step: Callable[[], Awaitable[T]], seconds: float) -> T:
        """A step, again and again for so long while the store can't be reached."""
        until = self._loop.time() + seconds
        while True:
            try:
                return await step()
            except StoreUnavailableError:
                if self._loop.time() > until:
                    raise
                await asyncio.sleep(AGAIN)

    async def _keep(self) -> None:
        """Renew leases, end those of processes that have died, look up what is left."""
        while True:
            await asyncio.sleep(self.lease / 3)
            try:
                with self._guard:
                    live = list(self._live)
                ended = await self._leases.renew(live)
                await self._lost(ended)
                await self.store.expire()
                await self._look()
            except StoreUnavailableError:
                pass  # who waits for it says so
            except StoreForgotError as error:
                self._alarm(error)
            except StoreError as error:  # a clock that is wrong, say: it may be put right
                log.error("the leases of account %s could not be renewed: %s", self.name, error)

    async def _lost(self, ended: set[str]) -> None:
        """Some holds were not renewed in time. A reserve among them was given back: it is taken anew.

        Raises:
            StoreForgotError: the store has never heard of one.
        """
        with self._guard:
            lost = (ended & self._live.keys()) - self._ending - self._unheld
        reserves = {reserve.key: task for task, reserve in self._reserves.items()}
        for key in lost:
            if key in reserves:
                del self._reserves[reserves[key]]
                with self._guard:
                    self._live.pop(key, None)
            elif key not in self._warned:
                try:
                    await self.store.refund(key)  # it has ended: this only asks
                except UnknownHoldError as error:
                    raise StoreForgotError(f"{error}. This process has taken it: the store forgot") from error
                log.warning("hold %s ran out before its call was over: it was charged whole", key)
        self._warned = lost

    async def _end(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        for task in list(self._reserves):
            await self._give_back(task)
        while self._behind or self._ending:
            await asyncio.wait([*self._behind, asyncio.ensure_future(asyncio.sleep(SOON))])
        self._shut = True
        if not self._shared:
            await self.store.aclose()

    # Across threads

    async def _there(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a step on the ledger's thread; cancelled here, it goes on there to its end."""
        if self._shut:
            step.close()
            raise StoreError("the scheduler was closed, and its ledger with it: make a new one")
        return await asyncio.shield(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step, self._loop)))

    def _behind_soon(self, step: Coroutine[Any, Any, None]) -> None:
        def start() -> None:
            task = asyncio.ensure_future(step)
            self._behind.add(task)
            task.add_done_callback(self._behind.discard)

        if self._shut:  # leases end what is left
            step.close()
        else:
            self._loop.call_soon_threadsafe(start)

    def _key(self, hold: Hold) -> str:
        return f"{self._maker}-{hold.id}"
