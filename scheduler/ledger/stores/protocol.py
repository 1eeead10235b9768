"""The durable ledger: one protocol, several stores. What the ledger in memory is to one process.

Accounts form a tree; their owners name them ("acme", "acme/alice", "acme/alice/task-7"). A hold takes tokens
and nano-dollars from its account and from every account above, whole or not at all, under a key that the
holder chooses. The same request under the same key changes nothing and gets the same answer. A hold ends
once:

    hold -- dispatch -- settle(actual) ----> charged: what was used, even if more than was held
      |         `------ lease ends --------> charged: all, since its outcome is unknown (EXPIRED)
      `---------------- lease ends --------> never dispatched, so never sent: all comes back (REFUNDED)
      `---------------- refund ------------> provably never sent: all comes back

A hold is a lease: its holder renews it while the call runs. `dispatch` is the last step before the call is
sent, and fails on a hold that has ended; `hold(..., dispatched=True)` is both in one round trip. A process
may be stopped between dispatch and sending: so right before each request it checks whether its lease has run
out (`durable.leases`), and then sends nothing.

A hold whose lease has run out has ended, even before any step has written its end: `dispatch` and `renew`
say so, and the steps that answer with a hold (`hold`, `settle`, `refund`) end it first. A hold that no step
asks for stays held until `expire` runs; `holds` shows it as live with nothing left.

A capped window (a day, a month, in UTC) is an account of its own on the path whose `spent` starts anew with
each window. A hold that lives when a window ends stays held, and is charged to the window in which it ends.
So the meter stays at or under the cap of both windows.

An ended hold with its key, and a closed account with its name, are kept for the store's retention (two days
by default): a repeated request gets the same answer. Then `expire` forgets them: a hold, and an account once
its holds and the accounts below it are forgotten. The accounts above keep their charges. A forgotten name is
free again: opened anew it is a new account that has spent nothing, under any caps and parent. So do not close
an account whose cap is to hold for longer than the retention, nor use one name for two things.

For every account and unit, at every instant: available + held + spent == cap, and a parent's held and spent
cover its children's (spent not for windows). `check()` is the law as a callable.

The clock is the store's own. The store's time follows it at the pace at which time passes: never backwards,
not at once when the clock jumps ahead, and not at all when the clock is far behind the latest time seen
(`ledger_time`): then every step is a StoreClockError.

A ledger has a number of its own, drawn when it is made. A handle works on the ledger that it met first, and
on no other: if the store was emptied or replaced, every step is a StoreForgotError. A ledger that was put
back to an older state keeps its number; its users notice that it knows less than it has acknowledged
(`durable.acknowledged`).

Amounts and caps are whole numbers from 0 to `MOST`; leases and seconds are finite and not negative; names and
keys are 1 to 500 characters without NUL. Anything else is a StoreError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..accounts import HoldState
from ..amounts import NOTHING, Amount, Balance, Shortage, balances

Window = Literal["day", "month"]

MOST = 2**53 - 1
"""The largest amount or cap: all stores count exactly up to here, also stores that count in doubles."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One account as it should be: the arguments of its opening.

    Attributes:
        id: its name, unique in the store.
        tokens, nano: its caps; None: the unit is counted here, and only accounts above limit it.
        seconds: for how long it takes holds after its opening; None: for ever.
        window: `spent` starts anew with each UTC day or month; None: the caps are for the account's lifetime.
    """

    id: str
    tokens: int | None = None
    nano: int | None = None
    seconds: float | None = None
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """An account as the store has it.

    Attributes:
        left: seconds for which it still takes holds; None: for ever.
        past: spent in the windows before this one.
    """

    spec: Spec
    spent: Amount
    held: Amount
    left: float | None
    closed: bool = False
    past: Amount = NOTHING

    def balances(self) -> dict[str, Balance]:
        """The balances of the capped units, by unit ("tokens", "nano")."""
        return balances(self.spec.tokens, self.spec.nano, self.spent, self.held)


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as the store has it.

    Attributes:
        charged: what its end cost; nothing while it lives.
        left: seconds until its lease ends; 0 once it has ended.
    """

    key: str
    account: str
    amount: Amount
    state: HoldState = HoldState.LIVE
    charged: Amount = NOTHING
    dispatched: bool = False
    left: float = 0.0


class Store(Protocol):
    """Where the accounts of many processes live. Every method is one atomic step, durable when it returns.

    Several threads and event loops may ask for steps at once. In a forked process a store works on, with
    connections of its own.

    Every method may raise:
        StoreClockError, StoreForgotError: see the module.
        StoreUnavailableError: the store could not be reached, is full, or did not answer in time. The step
            may have happened; asking again under the same key finds out.
        StoreVersionError: the store's schema is from another version of this library.
        StoreError: an account that was not opened, caps that contradict the account's, a key of another hold.
    """

    name: str
    connections: int
    """How often this handle has connected to the store: after each time the store may know less."""

    async def open(self, path: Sequence[Spec]) -> None:
        """Open accounts from the root down, each under the account before it. Existing accounts stay.

        Raises:
            StoreError: an account exists with other caps (see `set_caps`), seconds, window or parent.
            TaskClosedError: an account of the path is closed.
        """
        ...

    async def set_caps(self, account: str, *, tokens: int | None, nano: int | None) -> None:
        """Give an account other caps. Caps below what is spent and held stop new holds and undo nothing."""
        ...

    async def hold(
        self,
        key: str,
        account: str,
        amount: Amount,
        *,
        lease: float,
        seconds: float = 0.0,
        dispatched: bool = False,
        instead_of: str | None = None,
    ) -> StoredHold | Shortage:
        """Take `amount` on the whole path, or nothing. Send the call only if the hold came back live.

        Args:
            key: idempotency: the same key again returns its hold, ended or not; with another account or
                amount it is a StoreError.
            lease: seconds until the hold expires unless it is renewed.
            seconds: how long the call may take; every account above must be open that long.
            dispatched: the call leaves as soon as this returns: the same as `dispatch` right afterwards, also
                if the key already had a live hold.
            instead_of: a hold of the same account that was not dispatched (otherwise: a StoreError). The step
                refunds it if, and only if, the new hold is taken: so a final answer takes the place of its
                reserve. An ended hold gives nothing.

        Raises:
            TaskClosedError: the account or an account above it is closed.
        """
        ...

    async def dispatch(self, key: str) -> bool:
        """The last step before the call leaves. False: the hold has ended, and nothing may be sent.

        Raises:
            StoreError: the key has no hold, or its hold is forgotten (also for `settle` and `refund`).
        """
        ...

    async def settle(self, key: str, actual: Amount) -> StoredHold:
        """End a hold with what was used. A hold that has ended stays as it is."""
        ...

    async def refund(self, key: str) -> StoredHold:
        """End a hold of a call that provably never left. A hold that has ended stays as it is."""
        ...

    def end_soon(
        self, key: str, actual: Amount | None, done: Callable[[StoredHold | BaseException], None]
    ) -> None:
        """`settle`, or `refund` for None, without waiting: written some milliseconds later, or with the next
        step. If the process dies meanwhile, the end of the lease ends the hold.

        Args:
            done: gets the hold once its end is durable, or the error; on any thread, so it must be quick.
        """
        ...

    async def renew(self, keys: Iterable[str], lease: float) -> set[str]:
        """Give every live hold `lease` seconds from now. Returns the other keys: ended, or unknown.

        Many keys take several steps.
        """
        ...

    async def expire(self) -> list[StoredHold]:
        """End every hold whose lease has run out: charged if it was dispatched, refunded if not.

        Also forgets holds and accounts that ended longer ago than the retention. Many holds take several
        steps.
        """
        ...

    async def close(self, account: str) -> None:
        """End an account and the accounts below it; live holds end as if their leases had run out.

        No step opens the account again while the store remembers it.
        """
        ...

    async def read_accounts(self, account: str) -> list[StoredAccount]:
        """The account and the accounts above it at one moment, from the account up."""
        ...

    async def holds(self, account: str | None = None) -> list[StoredHold]:
        """The holds of an account (without accounts below it), ended holds too until they are forgotten."""
        ...

    async def live(self, account: str) -> list[StoredHold]:
        """The live holds of an account and of all accounts below it."""
        ...

    async def set_time(self) -> None:
        """Go on from the clock's time: the clock is right, and the time that the ledger has seen was wrong.

        For a person who has looked at both, while no call holds anything: leases end at once. Windows that
        began under the wrong time go on as the present windows, with what was spent in them.
        """
        ...

    async def check(self) -> None:
        """Hold the conservation law against every account at one moment.

        Raises:
            AssertionError: which account breaks the law, and how.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads."""
        ...
