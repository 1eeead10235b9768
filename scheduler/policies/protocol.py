"""What a policy is: a pure function from a `State` to the thinking tokens of one call.

A policy knows no clock, no ledger and no money. The allocator has turned all caps into one number, `room`:
the thinking tokens that this call and the others together may be expected to use, once every call's minimum
(close and solution, no thinking) has been set aside. The final answer's reserve is not in the room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from ..estimates.success_curve import Curve


class Need(NamedTuple):
    """Like calls that want thinking tokens.

    Attributes:
        curve: their success curve.
        calls: how many.
        weight: how much each counts.
    """

    curve: Curve
    calls: int = 1
    weight: float = 1.0


@lru_cache(maxsize=1024)
def needs(curves: tuple[Curve, ...], calls: tuple[int, ...]) -> tuple[Need, ...]:
    """So many calls with each of these curves; cached, since the same mixtures come again and again."""
    return tuple([Need(curve, count) for curve, count in zip(curves, calls, strict=True)])


@dataclass(slots=True)
class State:
    """What a policy decides from.

    Attributes:
        this: the call in question.
        others: calls that wait or are still to come.
        room: thinking tokens that all these calls together may be expected to use; may be below zero.
        most: most thinking tokens that this call may have (its own limit, the context, its deadline).
        made: calls made before this one, running ones included.
        pool_price: what an expected token costs in the pool that tasks share, as a share of the value of the
            task's success; 0: there is no pool.
        chance: how likely all calls made before are right, where there is a pool.
    """

    this: Need
    others: tuple[Need, ...]
    room: float
    most: int
    made: int = 0
    pool_price: float = 0.0
    chance: float = 1.0

    @property
    def calls(self) -> int:
        """How many calls are still to come."""
        return sum([need.calls for need in self.others])


@dataclass(slots=True)
class Choice:
    """A policy's answer.

    Attributes:
        thinking: tokens.
        why: the reason; its `str` is in words.
        numbers: what the reason rests on, for the log.
    """

    thinking: int
    why: object
    numbers: Mapping[str, float] = field(default_factory=dict)


class AllocationPolicy(Protocol):
    """Chooses the thinking tokens of a call, from the state alone; keeps nothing."""

    @property
    def name(self) -> str:
        """For logs and reports."""
        ...

    def choose(self, state: State) -> Choice:
        """The thinking tokens of this call, 0 to `state.most`."""
        ...
