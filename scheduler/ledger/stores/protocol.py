"""The durable ledger: one protocol, several stores. What the ledger in memory is to one process.

Accounts form a tree and are named by their makers ("acme", "acme/alice", "acme/alice/task-7"). A hold takes
tokens and nano-dollars from its account and from every account above it, whole or not at all, under a key
that its maker chose; the same request again under the same key changes nothing and gets the same answer. It
ends once:

    hold -- dispatch -- settle(actual) ----> charged what was used, be it more than was held
      |         `------ lease ends --------> nobody knows what became of it: all is charged (EXPIRED)
      `---------------- lease ends --------> never dispatched, so it never left: all comes back (REFUNDED)
      `---------------- refund ------------> provably never sent: all of it comes back

A hold is a lease: its maker renews it while the call runs. `dispatch` is the last word before the call
leaves, and fails on a hold that has ended. `hold(..., dispatched=True)` says both in one round trip. Between
that and the sending a maker may be stopped: right before each request leaves it looks whether its lease has
run out meanwhile (`durable.leases`). So a maker that slept through its lease sends nothing.

A hold whose lease has run out has ended, whether or not anybody has written that down: `dispatch` and `renew`
say so, and the steps that answer with a hold (`hold`, `settle`, `refund`) end it first. What nobody asks for
stays held until `expire` comes by; `holds` shows it as live with nothing left.

A capped window (a day, a month, in UTC) is an account of its own on the path whose `spent` starts anew with
each window; what is held across the border stays held, and is charged to the window in which it ends. So the
meter stays at or under the cap of either window.

An ended hold and its key, and a closed account and its name, are kept for the store's retention (two days,
unless told otherwise): whoever asks again gets the same answer. Then `expire` forgets them: a hold, and an
account once its own holds and the accounts below it are forgotten. What they were charged stays in the books
of the accounts above. A forgotten name or key is one that nobody knows: opened again it is a new account that
has spent nothing, under whatever caps and parent it is given. So an account whose cap is to hold for longer
than that is not closed, and a name is not used for two things.

For every account and unit, at every instant: available + held + spent == cap, and a parent's held and spent
cover those of its children (spent not for windows). `check()` is that law as a callable.

The clock is the store's own, and the store's time follows it at the pace at which time passes: never
backwards, not at once where it jumps ahead, and not at all where it is far behind the latest time that was
seen (`ledger_time`): then every step is a StoreClockError.

A ledger has a number of its own, drawn when it is made. A handle that has met one ledger takes no other:
where the store was emptied or replaced, every step is a StoreForgotError. One that was put back to an older
state has the same number: who used it notices that it knows less than it has acknowledged
(`durable.acknowledged`).

Amounts and caps are whole numbers from 0 to `MOST`; leases and seconds are finite and not negative; names and
keys are 1 to 500 characters, none of them NUL. Anything else is a StoreError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..accounts import HoldState
from ..amounts import NOTHING, Amount, Balance, Shortage, balances

Window = Literal["day", "month"]

MOST = 2**53 - 1
"""The largest amount or cap: every store counts exactly up to here, those that count in doubles too."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One account as it should be: the arguments of its opening.

    Attributes:
        id: its name, unique in the store.
        tokens, nano: its caps; None counts a unit and leaves its limit to the accounts above.
        seconds: how long it takes holds, from its opening on; None: for ever.
        window: its `spent` starts anew with each UTC day or month; None: its caps are for its lifetime.
    """

    id: str
    tokens: int | None = None
    nano: int | None = None
    seconds: float | None = None
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """One account's books at one moment.

    Attributes:
        left: seconds until it takes no more holds; None: for ever.
        past: what was spent in the windows before this one.
    """

    spec: Spec
    spent: Amount
    held: Amount
    left: float | None
    closed: bool = False
    past: Amount = NOTHING

    def balances(self) -> dict[str, Balance]:
        """By unit ("tokens", "nano"), for those that are capped."""
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

    Steps may be asked for from several threads and event loops at once.

    Every method may raise:
        StoreClockError, StoreForgotError: see the module.
        StoreUnavailableError: the store could not be reached, is full, or did not answer in time. The step
            may have happened; asking again under the same key finds out.
        StoreVersionError: its schema is from a newer version of this library.
        StoreError: it was asked for something that can't be (an account that nobody opened, caps that
            contradict those it has, a key that stands for another hold).
    """

    name: str
    connections: int
    """Times that the store was connected to: after each of them it may know less than before."""

    async def open(self, path: Sequence[Spec]) -> None:
        """Accounts from the root down, each under the one before it; those that exist are left alone.

        Raises:
            StoreError: one exists with other caps (see `set_caps`), other seconds, another window or another
                parent.
            TaskClosedError: one of them is closed.
        """
        ...

    async def set_caps(self, account: str, *, tokens: int | None, nano: int | None) -> None:
        """Give an account other caps. Below what is spent and held they stop new holds and undo nothing."""
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
        """Take `amount` on the whole path, or nothing. Send only what came back live.

        Args:
            key: idempotency: the same key again returns the hold that it stands for, ended or not; with
                another account or amount it is a StoreError.
            lease: seconds until it expires unless it is renewed.
            seconds: how long the call may take; every account above must be open that long.
            dispatched: it leaves as soon as this returns. The same as `dispatch` right after, for a key that
                already stood for a live hold too.
            instead_of: a hold of the same account that was not dispatched (else: a StoreError); it is
                refunded in the same step, and only if this one is taken. That is how a final answer takes its
                reserve. One that has ended gives nothing.

        Raises:
            TaskClosedError: the account or one above it is closed.
        """
        ...

    async def dispatch(self, key: str) -> bool:
        """The last word before the call leaves. False: the hold has ended, nothing may be sent.

        Raises:
            StoreError: nobody took a hold under this key, or it is forgotten (so for `settle`, `refund`).
        """
        ...

    async def settle(self, key: str, actual: Amount) -> StoredHold:
        """End a hold with what was used. One that has ended stays as it is."""
        ...

    async def refund(self, key: str) -> StoredHold:
        """End a hold of a call that provably never left. One that has ended stays as it is."""
        ...

    def end_soon(
        self, key: str, actual: Amount | None, done: Callable[[StoredHold | BaseException], None]
    ) -> None:
        """`settle`, or `refund` for None, for whom nobody waits: written a few milliseconds later, or with
        the next step. A process that dies meanwhile leaves it to the end of its lease.

        Args:
            done: told how it ended once that is durable, or why it is not; on any thread, so it is quick.
        """
        ...

    async def renew(self, keys: Iterable[str], lease: float) -> set[str]:
        """`lease` more seconds from now for each that lives. Returns the others: ended, or unknown."""
        ...

    async def expire(self) -> list[StoredHold]:
        """End every hold whose lease has run out: charged if it was dispatched, else refunded.

        Holds that ended, and accounts that were closed, longer ago than the store's retention are forgotten.
        """
        ...

    async def close(self, account: str) -> None:
        """End an account and those below it. Live holds end as if their leases had run out. Idempotent.

        Nothing opens it again while the store remembers it.
        """
        ...

    async def books(self, account: str) -> list[Level]:
        """The account and those above it, in one consistent view, from the account up."""
        ...

    async def holds(self, account: str | None = None) -> list[StoredHold]:
        """Every hold of an account (not of those below), ended ones too as long as the store keeps them."""
        ...

    async def live(self, account: str) -> list[StoredHold]:
        """The live holds of an account and of all accounts below it: who holds what there."""
        ...

    async def set_time(self) -> None:
        """The clock is right and the time that the ledger has seen was wrong: go on from the clock's.

        For a person who has looked at both, while nobody holds anything: leases end at once. What the wrong
        time did stays: windows that had begun then go on as the present ones, with what was spent in them.
        """
        ...

    async def check(self) -> None:
        """Hold the conservation law against every account, in one consistent view.

        Raises:
            AssertionError: which account breaks it, and how.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads."""
        ...
