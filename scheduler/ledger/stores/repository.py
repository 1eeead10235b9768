"""The rows of a ledger, and what the transitions ask of the place where the rows are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..accounts import HoldState
from ..amounts import NOTHING, Amount
from .protocol import Spec


@dataclass(slots=True, eq=False)
class AccountRow:
    """An account as the ledger keeps it. Times are seconds of the store's clock.

    Attributes:
        root: the top account of its tree.
        ends: when it stops taking holds.
        starts: when the window of `spent` began; 0 without windows.
        spent: charged in this window, to this account and all accounts below it.
        past: the same in the windows before.
        own: charged to this account's own holds and to forgotten accounts below it, over all windows.
        closed_at: when it was closed.
    """

    spec: Spec
    parent: str | None
    root: str
    ends: float | None
    starts: float = 0.0
    spent: Amount = NOTHING
    held: Amount = NOTHING
    own: Amount = NOTHING
    past: Amount = NOTHING
    closed: bool = False
    closed_at: float | None = None


@dataclass(slots=True, eq=False)
class HoldRow:
    """A hold as the ledger keeps it. `until`: the end of its lease; `ended`: when its end was written."""

    key: str
    account: str
    amount: Amount
    until: float
    dispatched: bool
    state: HoldState = HoldState.LIVE
    charged: Amount = NOTHING
    ended: float | None = None


class Repository(Protocol):
    """The rows, for the length of one step.

    A row may be the stored object itself. So a step changes a row only once the step can't fail any more, and
    then saves the row. (Rolling a window on is the exception: the new window is true either way.)
    """

    def lock(self, account: str) -> float:
        """Keep all other steps away from this account's tree until this step is over. Returns the time."""
        ...

    def now(self) -> float:
        """The time, for a step that locks nothing."""
        ...

    def set_time(self) -> None:
        """Follow the clock from here on; move times that lie ahead of the clock back to the clock."""
        ...

    def accounts(self, ids: Sequence[str] | None = None) -> list[AccountRow]:
        """The accounts among these names that exist; None: every account."""
        ...

    def path(self, account: str) -> list[AccountRow]:
        """The account and the accounts above it, from the account up; empty if it does not exist."""
        ...

    def open_below(self, account: str) -> list[str]:
        """Names of the account and the accounts below it, without closed accounts."""
        ...

    def add_account(self, row: AccountRow) -> None: ...

    def save_accounts(self, rows: Sequence[AccountRow]) -> None: ...

    def hold(self, key: str) -> HoldRow | None: ...

    def holds(self, account: str | None) -> list[HoldRow]:
        """The account's own holds; None: every hold."""
        ...

    def live_holds(self, accounts: Sequence[str]) -> list[HoldRow]: ...

    def lapsed(self, now: float, most: int) -> list[HoldRow]:
        """Up to `most` live holds whose lease is over, the earliest end first."""
        ...

    def add_hold(self, row: HoldRow) -> None: ...

    def save_hold(self, row: HoldRow) -> None: ...

    def renew(self, keys: Sequence[str], now: float, until: float) -> set[str]:
        """Move the leases of the live holds among these to `until`. Returns the keys of the live holds."""
        ...

    def drop_holds(self, before: float, most: int) -> int:
        """Drop up to `most` holds that ended by `before`. Returns how many."""
        ...

    def finished(self, before: float, most: int) -> list[AccountRow]:
        """Up to `most` accounts closed by `before` that have no holds and no accounts below them."""
        ...

    def drop_accounts(self, names: Sequence[str]) -> None: ...
