"""Policies: how many thinking tokens this call gets, of what is left for it and for the calls still to come.

A policy is a pure function of a `State`: it knows no clock, no ledger and no money. Whoever asks (the desk)
has turned all caps into one number, `room`: the thinking tokens that this call and the others together may be
expected to use after everybody's floor (close and solution, no thinking) has been set aside.

`Marginal`, the default, spends the room where a token gains most. Each call's success curve becomes a concave
envelope over expected use; its segments, steepest first, fill the room, which is the multiplier search of the
knapsack's relaxation without the bisection: the slope of the first segment that finds no more room is the
multiplier. The gap to the best split is at most one call's segment. Calls that want the same segment share it
evenly where the real curve allows; where a gain comes all at once, the first takes it whole. The desk asks
again after every refund.

`FixedCap` is what everybody does today; `Uniform` shares the room evenly. Both are here to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple, Protocol

from elastic_agent.scheduler.curves import Curve, Objective, Vertex


@dataclass(slots=True)
class Need:
    """Like calls that want thinking tokens.

    Attributes:
        curve: their success curve.
        count: how many.
        weight: how much each counts.
    """

    curve: Curve
    count: int = 1
    weight: float = 1.0


@dataclass(slots=True)
class State:
    """What a policy decides from.

    Attributes:
        this: the call in question.
        others: calls waiting or still to come.
        room: thinking tokens that all of them together may be expected to use; may be below zero.
        most: most thinking tokens that this call may have (its own limit, the context, its deadline).
    """

    this: Need
    others: tuple[Need, ...]
    room: float
    most: int

    @property
    def calls(self) -> int:
        """How many calls are still to come."""
        return sum([need.count for need in self.others])


@dataclass(slots=True)
class Choice:
    """A policy's answer: the thinking tokens, why in words, and the numbers behind it."""

    thinking: int
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)


class AllocationPolicy(Protocol):
    """Chooses the thinking tokens of a call. Must not look at anything but the state, nor keep anything."""

    @property
    def name(self) -> str:
        """For logs and reports."""
        ...

    def choose(self, state: State) -> Choice:
        """The thinking tokens of this call, 0 to `state.most`."""
        ...


@dataclass(frozen=True, slots=True)
class FixedCap:
    """The same limit for every call, whatever is left."""

    thinking: int
    name: str = "fixed"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        return Choice(min(self.thinking, state.most), f"every call gets {self.thinking}")


@dataclass(frozen=True, slots=True)
class Uniform:
    """An even share of the room for this call and each one to come."""

    name: str = "uniform"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        share = max(0, int(state.room / (1 + state.calls)))
        return Choice(
            min(share, state.most), f"an even share of {max(0, int(state.room)):,} among {1 + state.calls}"
        )


class _Segment(NamedTuple):
    """A piece of an envelope: gain per expected token (weighted), expected tokens of one call, how many calls
    want it, where it ends, whether it is this call's, and how many others want the same."""

    slope: float
    use: float
    calls: int
    end: Vertex
    mine: bool = False
    rivals: int = 0


@dataclass(frozen=True, slots=True)
class Marginal:
    """Every token goes where it gains most.

    Args:
        objective: "chain" maximises the chance that all calls succeed (sum of log p), for steps that build on
            each other; "each" the number of calls that succeed (sum of p), for problems of their own.
    """

    objective: Objective = "chain"
    name: str = "marginal"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        curve = state.this.curve
        at, left, price, rest = curve.envelopes[self.objective][0], state.room, 0.0, state.room
        if left <= 0:
            return Choice(0, "after the floors of the calls to come nothing is left to think with")
        for segment in self._segments(state):
            if not segment.mine:
                left -= segment.use * segment.calls
            elif segment.use * (1 + segment.rivals) <= left:
                at, left = segment.end, left - segment.use
            else:
                at, left = self._part(curve, at, segment, left), 0.0
            if left <= 0:
                price = segment.slope
                break
            rest = left
        thinking = at.thinking
        if left > 0 and not curve.measured:
            # No curve says that still more helps, or that it does not: what is left over is shared.
            thinking += int(rest / (1 + state.calls))
        chosen = curve.best(min(thinking, state.most))
        return Choice(chosen, self._why(state, chosen, price), {"token_price": price, "ideal": thinking})

    def _segments(self, state: State) -> list[_Segment]:
        """The pieces of all envelopes, steepest first, ours before equals."""
        theirs = [
            _Segment(other.weight * slope, use, other.count, end)
            for other in state.others
            for slope, use, end in other.curve.pieces[self.objective]
        ]
        ours = []
        for slope, use, end in state.this.curve.pieces[self.objective]:
            slope *= state.this.weight
            rivals = sum([other.calls for other in theirs if math.isclose(other.slope, slope)])
            ours.append(_Segment(slope, use, 1, end, mine=True, rivals=rivals))
        return sorted(theirs + ours, key=attrgetter("slope", "mine"), reverse=True)

    def _part(self, curve: Curve, at: Vertex, segment: _Segment, left: float) -> Vertex:
        """How far into a segment that can't be had by all who want it equally.

        An even share is best where the real curve lies on or above the segment. Below it (a gain that comes
        all at once) an even share would be wasted on everybody: then the first takes it whole, if it can.
        """
        even = self._reach(curve, at, segment.end, left / (1 + segment.rivals))
        chord = at.worth + (segment.end.worth - at.worth) / segment.use * (even.use - at.use)
        if even.worth >= chord - 1e-9:
            return even
        return segment.end if segment.use <= left else self._reach(curve, at, segment.end, left)

    def _reach(self, curve: Curve, at: Vertex, end: Vertex, left: float) -> Vertex:
        """As far towards `end` as so many tokens carry, by expected use."""
        low, high = at.thinking, end.thinking
        while low < high:
            middle = (low + high + 1) // 2
            if curve.net(middle) - at.use <= left:
                low = middle
            else:
                high = middle - 1
        p = curve.p(low)
        return Vertex(low, curve.net(low), math.log(p) if self.objective == "chain" else p)

    def _why(self, state: State, chosen: int, price: float) -> str:
        curve = state.this.curve
        p = f"success {curve.p(chosen):.2f}" if curve.measured else "no curve was measured for it"
        count = state.calls
        if not count:
            return f"no call is known to come after it; {p}"
        calls = "1 call" if count == 1 else f"{count} calls"
        if price == 0.0:
            return f"there is room for all that {calls} to come can use; {p}"
        return f"a further token is worth less here than {price:.2g} in {calls} to come; {p}"
