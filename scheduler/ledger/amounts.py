"""Amounts of tokens and money, and what a ledger answers: rooms, balances, shortages. All are values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

INFINITY = float("inf")
_new = tuple.__new__


class Amount(NamedTuple):
    """Tokens (`Usage.generated`) and nano-dollars. (A tuple, since a decision makes dozens of them.)"""

    tokens: int = 0
    nano: int = 0

    def __add__(self, other: Amount) -> Amount:  # type: ignore[override]
        return _new(Amount, (self.tokens + other.tokens, self.nano + other.nano))

    def __sub__(self, other: Amount) -> Amount:
        return _new(Amount, (self.tokens - other.tokens, self.nano - other.nano))

    def max(self, other: Amount) -> Amount:
        """The larger of each unit."""
        return Amount(max(self.tokens, other.tokens), max(self.nano, other.nano))

    def min(self, other: Amount) -> Amount:
        """The smaller of each unit."""
        return Amount(min(self.tokens, other.tokens), min(self.nano, other.nano))

    def fits_in(self, other: Amount) -> bool:
        """Whether neither unit is larger than the other amount's."""
        return self.tokens <= other.tokens and self.nano <= other.nano

    def excess_over(self, other: Amount) -> Amount:
        """By how much each unit is larger than the other amount's; never below 0."""
        return (self - other).max(NOTHING)


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a hold can't be taken: the first account, from the leaf up, and its first unit without room.

    Attributes:
        account: the account's id.
        unit: "tokens", "nano" or "seconds".
        needed, available: in this unit.
    """

    account: str
    unit: str
    needed: float
    available: float


@dataclass(frozen=True, slots=True)
class Balance:
    """One unit of one account: available + held + spent == cap."""

    cap: float
    spent: float
    held: float
    available: float


def balances(tokens: int | None, nano: int | None, spent: Amount, held: Amount) -> dict[str, Balance]:
    """Balances of the capped units, by unit ("tokens", "nano"); the first two arguments are the caps."""
    found: dict[str, Balance] = {}
    for unit, cap in (("tokens", tokens), ("nano", nano)):
        if cap is not None:
            used, promised = getattr(spent, unit), getattr(held, unit)
            found[unit] = Balance(cap, used, promised, cap - used - promised)
    return found


class Room(NamedTuple):
    """The largest hold for which an account and all accounts above have room.

    Attributes:
        tokens, nano: None: not capped.
        deadline: when the call has to be over.
    """

    tokens: int | None
    nano: int | None
    deadline: float

    def with_freed(self, freed: Amount) -> Room:
        """The room after `freed` has come back."""
        if freed is NOTHING:
            return self
        tokens = None if self.tokens is None else self.tokens + freed.tokens
        nano = None if self.nano is None else self.nano + freed.nano
        return Room(tokens, nano, self.deadline)
