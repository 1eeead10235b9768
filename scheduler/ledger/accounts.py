"""What the books are made of: amounts, accounts, holds. Values and bookkeeping state; `ledger` moves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

INFINITY = float("inf")


@dataclass(slots=True, unsafe_hash=True)
class Amount:
    """Tokens (`Usage.generated`) and nano-dollars.

    A value: it is replaced, never changed. (Not frozen, since a decision makes dozens, and a frozen one takes
    ten times as long to make.)
    """

    tokens: int = 0
    nano: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.nano + other.nano)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.nano - other.nano)

    def most(self, other: Amount) -> Amount:
        """The larger of each unit."""
        return Amount(max(self.tokens, other.tokens), max(self.nano, other.nano))

    def within(self, other: Amount) -> bool:
        """No unit has more than the other's."""
        return self.tokens <= other.tokens and self.nano <= other.nano

    def beyond(self, other: Amount) -> Amount:
        """What this has more than the other of each unit; never below 0."""
        return Amount(max(0, self.tokens - other.tokens), max(0, self.nano - other.nano))

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

    `spent`, `held` and `kept` (the part of `held` that is reserved for final answers) cover the whole
    subtree; `own_tokens` and `own_nano` are this account's part of what was spent, closed children included.
    What every call changes is kept in plain numbers. `path` is this account and those above it; `deadline`
    the moment at which its own time is up; `span` how long it may take in all: the shortest cap of the path,
    in seconds.
    """

    id: str
    parent: Account | None = field(repr=False)
    tokens: int | None
    nano: int | None
    seconds: float | None
    opened: float
    spent_tokens: int = 0
    spent_nano: int = 0
    held_tokens: int = 0
    held_nano: int = 0
    own_tokens: int = 0
    own_nano: int = 0
    kept: Amount = NOTHING
    reserve: Amount = NOTHING
    tail: float = 0.0
    live: dict[str, Hold] = field(default_factory=dict, repr=False)
    children: dict[str, Account] = field(default_factory=dict, repr=False)
    closed: bool = False
    path: tuple[Account, ...] = field(init=False, repr=False)
    deadline: float = field(init=False)
    span: float = field(init=False)

    def __post_init__(self) -> None:
        self.path = (self, *(self.parent.path if self.parent is not None else ()))
        self.ends(self.seconds)

    def ends(self, seconds: float | None) -> None:
        """Its time is up so long after its opening; None: never."""
        self.seconds = seconds
        self.deadline = INFINITY if seconds is None else self.opened + seconds
        self.span = min([INFINITY if a.seconds is None else a.seconds for a in self.path])

    @property
    def spent(self) -> Amount:
        """What was charged."""
        return Amount(self.spent_tokens, self.spent_nano)

    @property
    def held(self) -> Amount:
        """What is promised."""
        return Amount(self.held_tokens, self.held_nano)

    def lacks(self, extra: Amount) -> tuple[str, float, float] | None:
        """The first unit in which this account has no room for `extra`: (unit, needed, available)."""
        if self.tokens is not None and extra.tokens > 0:
            left = self.tokens - self.spent_tokens - self.held_tokens
            if extra.tokens > left:
                return "tokens", extra.tokens, left
        if self.nano is not None and extra.nano > 0:
            left = self.nano - self.spent_nano - self.held_nano
            if extra.nano > left:
                return "nano", extra.nano, left
        return None


@dataclass(slots=True, eq=False)
class Hold:
    """A promise of what a call may use. `amount` never changes: a call that gets more has a further hold.

    Attributes:
        call: id of the call's first hold; its own for that one.
    """

    id: str
    account: Account
    amount: Amount
    until: float
    from_reserve: Amount = NOTHING
    state: HoldState = HoldState.LIVE
    charged: Amount = NOTHING
    call: str = ""

    def __post_init__(self) -> None:
        self.call = self.call or self.id

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


class Room(NamedTuple):
    """What can still be held, over the whole path; None = not capped. `deadline` leaves the tails out."""

    tokens: int | None
    nano: int | None
    deadline: float

    def beside(self, own: Amount) -> Room:
        """The room for one that gives up what it holds already."""
        if own is NOTHING:
            return self
        tokens = None if self.tokens is None else self.tokens + own.tokens
        nano = None if self.nano is None else self.nano + own.nano
        return Room(tokens, nano, self.deadline)
