"""Accounts and the holds on them: the state that only `ledger.Ledger` changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .amounts import INFINITY, NOTHING, Amount, Shortage


class HoldState(StrEnum):
    """The life of a hold; every state but the first is terminal."""

    LIVE = "live"
    SETTLED = "settled"
    REFUNDED = "refunded"
    EXPIRED = "expired"


@dataclass(slots=True, eq=False)
class Account:
    """The account of a task, or of a store, with its caps.

    Attributes:
        tokens, nano, seconds: the caps; None: not capped here.
        opened: when it was opened.
        spent: charged, in the whole subtree.
        held: the amounts of all live holds and reserves of the subtree.
        reserved: the part of `held` that is reserved for final answers.
        own: the part of `spent` of this account's own holds and of closed sub-tasks.
        reserve: the part of `reserved` for the final answer of this task.
        reserved_seconds: seconds before the deadline that only the final answer may use.
        live: the live holds of the subtree, by id.
        path: this account and the accounts above, from here up.
        deadline: when this account's own time is up.
        span: the shortest cap on time of the path, in seconds.
    """

    id: str
    parent: Account | None = field(repr=False)
    tokens: int | None
    nano: int | None
    seconds: float | None
    opened: float
    spent: Amount = NOTHING
    held: Amount = NOTHING
    reserved: Amount = NOTHING
    own: Amount = NOTHING
    reserve: Amount = NOTHING
    reserved_seconds: float = 0.0
    live: dict[str, Hold] = field(default_factory=dict, repr=False)
    children: dict[str, Account] = field(default_factory=dict, repr=False)
    closed: bool = False
    path: tuple[Account, ...] = field(init=False, repr=False)
    deadline: float = field(init=False)
    span: float = field(init=False)

    def __post_init__(self) -> None:
        self.path = (self, *(self.parent.path if self.parent is not None else ()))
        self.set_seconds(self.seconds)

    def set_seconds(self, seconds: float | None) -> None:
        """Set the cap on time, in seconds after the opening; None: no cap."""
        self.seconds = seconds
        self.deadline = INFINITY if seconds is None else self.opened + seconds
        self.span = min([INFINITY if a.seconds is None else a.seconds for a in self.path])

    @property
    def root(self) -> Account:
        """The outermost account of the path."""
        return self.path[-1]

    @property
    def tokens_left(self) -> int | None:
        """Tokens that are neither spent nor held; below 0 after an upstream served too much; None: no cap."""
        return None if self.tokens is None else self.tokens - self.spent.tokens - self.held.tokens

    @property
    def nano_left(self) -> int | None:
        """The same for nano-dollars."""
        return None if self.nano is None else self.nano - self.spent.nano - self.held.nano

    def shortage_of(self, extra: Amount) -> Shortage | None:
        """The first unit in which this account has no room for `extra`."""
        if self.tokens is not None and extra.tokens > 0:
            left = self.tokens - self.spent.tokens - self.held.tokens
            if extra.tokens > left:
                return Shortage(self.id, "tokens", extra.tokens, left)
        if self.nano is not None and extra.nano > 0:
            left = self.nano - self.spent.nano - self.held.nano
            if extra.nano > left:
                return Shortage(self.id, "nano", extra.nano, left)
        return None


@dataclass(slots=True, eq=False)
class Hold:
    """A promise of what a call may use. `amount` never changes: an extension is a further hold.

    Attributes:
        until: when the call has to be over.
        charged: what its end cost.
        call: id of the call's first hold, which may be this hold.
    """

    id: str
    account: Account
    amount: Amount
    until: float
    call: str
    state: HoldState = HoldState.LIVE
    charged: Amount = NOTHING

    @property
    def refund(self) -> Amount:
        """What came back; below zero if the upstream served more than it was asked for."""
        return NOTHING if self.state is HoldState.LIVE else self.amount - self.charged
