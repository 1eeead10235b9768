"""What the books are made of: amounts, accounts, holds. Values and bookkeeping state; `ledger` moves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Amount:
    """Tokens (`Usage.generated`) and nano-dollars."""

    tokens: int = 0
    nano: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.nano + other.nano)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.nano - other.nano)

    def most(self, other: Amount) -> Amount:
        """The larger of each unit."""
        return Amount(max(self.tokens, other.tokens), max(self.nano, other.nano))

    def least(self, other: Amount) -> Amount:
        """The smaller of each unit."""
        return Amount(min(self.tokens, other.tokens), min(self.nano, other.nano))


NOTHING = Amount()


class HoldState(StrEnum):
    """The life of a hold; every state but the first is terminal."""

    LIVE = "live"
    SETTLED = "settled"
    REFUNDED = "refunded"
    EXPIRED = "expired"


@dataclass(slots=True, eq=False)
class Account:
    """One account. Read it; only the ledger writes.

    `spent` and `held` cover the whole subtree; `own_spent` is this account's part, closed children included.
    """

    id: str
    parent: Account | None = field(repr=False)
    tokens: int | None
    nano: int | None
    seconds: float | None
    opened: float
    spent: Amount = NOTHING
    held: Amount = NOTHING
    own_spent: Amount = NOTHING
    reserve: Amount = NOTHING
    tail: float = 0.0
    live: dict[str, Hold] = field(default_factory=dict, repr=False)
    children: dict[str, Account] = field(default_factory=dict, repr=False)
    closed: bool = False

    def path(self) -> Iterator[Account]:
        """This account and those above it."""
        account: Account | None = self
        while account is not None:
            yield account
            account = account.parent

    @property
    def deadline(self) -> float:
        """The moment at which this account's own time is up."""
        return INFINITY if self.seconds is None else self.opened + self.seconds

    def lacks(self, extra: Amount) -> tuple[str, float, float] | None:
        """The first unit in which this account has no room for `extra`: (unit, needed, available)."""
        for unit, cap in (("tokens", self.tokens), ("nano", self.nano)):
            more = getattr(extra, unit)
            if cap is not None and more > 0:
                left = cap - getattr(self.spent, unit) - getattr(self.held, unit)
                if more > left:
                    return unit, more, left
        return None


@dataclass(slots=True, eq=False)
class Hold:
    """A promise of what a call may use. `amount` never changes."""

    id: str
    account: Account
    amount: Amount
    until: float
    from_reserve: Amount = NOTHING
    state: HoldState = HoldState.LIVE
    charged: Amount = NOTHING

    @property
    def refund(self) -> Amount:
        """What came back; below zero where the upstream served more than it was asked for."""
        return NOTHING if self.state is HoldState.LIVE else self.amount - self.charged


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a hold can't be taken: the first account and unit that lack room."""

    account: Account
    unit: str
    needed: float
    available: float


@dataclass(frozen=True, slots=True)
class Balance:
    """One unit of one account's books."""

    cap: float
    spent: float
    held: float
    available: float


@dataclass(frozen=True, slots=True)
class Room:
    """What can still be held, over the whole path; None = not capped. `deadline` leaves the tails out."""

    tokens: int | None
    nano: int | None
    deadline: float
