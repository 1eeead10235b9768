"""Accounts and the holds on them: the state that `ledger.Ledger`, and nothing else, changes."""

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
    """A task's account, or one of a store's, with its caps.

    Attributes:
        tokens, nano, seconds: the caps; None: not capped here.
        opened: the moment of its opening.
        spent: what was charged, in the whole subtree.
        held: the amounts of all live holds and reserves of the subtree.
        reserved: the part of `held` that is reserved for final answers.
        own: this account's own part of `spent`, closed sub-tasks included.
        reserve: what is reserved for the final answer of this task; a part of `reserved`.
        reserved_seconds: seconds before the deadline that only the final answer may use.
        live: the live holds of the subtree, by id.
        path: this account and those above it, from here up.
        deadline: the moment at which this account's own time is up.
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
        """Let the account's time be up so many seconds after its opening; None: never."""
        self.seconds = seconds
        self.deadline = INFINITY if seconds is None else self.opened + seconds
        self.span = min([INFINITY if a.seconds is None else a.seconds for a in self.path])

    @property
    def root(self) -> Account:
        """The outermost account above this one; itself where there is none."""
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
    """A promise of what a call may use. `amount` never changes: a call that gets more has a further hold.

    Attributes:
        until: the moment by which the call has to be over.
        charged: what its end cost.
        call: id of the call's first hold; its own for that one.
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
        """What came back; below zero where the upstream served more than it was asked for."""
        return NOTHING if self.state is HoldState.LIVE else self.amount - self.charged
