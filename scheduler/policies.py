"""Policies: how many thinking tokens this call gets, of what is left for it and for the calls still to come.

A policy is a pure function of a `State`: it knows no clock, no ledger and no money. Whoever asks (the desk)
has turned all caps into one number, `room`: the thinking tokens that this call and the others together may be
expected to use after everybody's floor (close and solution, no thinking) has been set aside.

`Marginal`, the default, spends the room where a token gains most. Each call's success curve becomes a concave
envelope over expected use; its segments, steepest first, fill the room, which is the multiplier search of the
knapsack's relaxation without the bisection: the slope of the first segment that finds no more room is the
multiplier. The gap to the best split is at most one call's segment. Where a segment is cut short, the real
curve decides (a cut in mid-step can be worse than not starting). The desk asks again after every refund.

`FixedCap` is what everybody does today; `Uniform` shares the room evenly. Both are here to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from elastic_agent.scheduler.curves import Curve, Objective, Vertex


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
        return sum(need.count for need in self.others)


@dataclass(frozen=True, slots=True)
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
        return Choice(min(share, state.most), f"an even share of {max(0, int(state.room)):,} among {1 + state.calls}")


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
        mine = state.this.curve.envelopes[self.objective]
        if state.room <= 0:
            return Choice(0, "after the floors of the calls to come nothing is left to think with")
        at, left, price = mine[0], state.room, 0.0
        open_ended = False
        for slope, use, count, start, end in self._segments(state):
            if count == 0:  # this call's
                if use > left:
                    at, price = self._part(state.this.curve, at, end, left), slope
                    left = 0.0
                    break
                at, left = end, left - use
            else:
                if use * count >= left:
                    price, left = slope, 0.0
                    break
                left -= use * count
        else:
            open_ended = not state.this.curve.measured
        thinking = at.thinking
        if open_ended:  # no curve says that more helps or that it doesn't: what is left over is shared
            thinking += int(left / (1 + state.calls))
        chosen = state.this.curve.best(min(thinking, state.most))
        return Choice(chosen, self._why(state, chosen, price), {"token_price": price, "unlimited": float(thinking)})

    def _segments(self, state: State) -> list[tuple[float, float, int, Vertex, Vertex]]:
        """(weighted slope, use of one call, calls or 0 for this one, from, to), steepest first, ours before equals."""
        found = []
        for count, need in ((0, state.this), *((other.count, other) for other in state.others)):
            hull = need.curve.envelopes[self.objective]
            for a, b in zip(hull, hull[1:], strict=False):
                found.append((need.weight * a.slope(b), b.use - a.use, count, a, b))
        found.sort(key=lambda segment: (-segment[0], segment[2] > 0))
        return found

    @staticmethod
    def _part(curve: Curve, at: Vertex, end: Vertex, left: float) -> Vertex:
        """As far towards `end` as the tokens that are left carry, by expected use."""
        low, high = at.thinking, end.thinking
        while low < high:
            middle = (low + high + 1) // 2
            if curve.used(middle) - at.use <= left:
                low = middle
            else:
                high = middle - 1
        return Vertex(low, curve.used(low), at.worth)

    def _why(self, state: State, chosen: int, price: float) -> str:
        curve = state.this.curve
        p = f"success {curve.p(chosen):.2f}" if curve.measured else "no curve was measured for it"
        if not state.calls:
            return f"no call is known to come after it; {p}"
        calls = "1 call" if state.calls == 1 else f"{state.calls} calls"
        if price == 0.0:
            return f"there is room for all that {calls} to come can use; {p}"
        return f"a further token is worth less here than {price:.2g} in {calls} to come; {p}"
