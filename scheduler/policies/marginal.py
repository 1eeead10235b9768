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

Uses are averages, and a sum of averages is exceeded half of the time. So a part of the room is kept
(`margin`): much of it where tokens gain little, and less than none where a chain can only succeed if its
calls happen to use little: there the room is overdrawn, knowingly. What is reserved for the final answer is
not in the room.

`FixedCap` is what everybody does today; `Uniform` shares the room evenly. Both are here to be compared with;
more of their like are in `elastic_agent.scheduler.policies.simple`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from statistics import NormalDist
from typing import NamedTuple, Protocol

from ..estimates.success_curve import Curve, Objective, Vertex


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
    """So many calls with each of these curves. Kept, since the same mixtures come again and again."""
    return tuple([Need(curve, count) for curve, count in zip(curves, calls, strict=True)])


@dataclass(slots=True)
class State:
    """What a policy decides from.

    Attributes:
        this: the call in question.
        others: calls waiting or still to come.
        room: thinking tokens that all of them together may be expected to use; may be below zero.
        most: most thinking tokens that this call may have (its own limit, the context, its deadline).
        made: calls made before this one, running ones included.
        price: what an expected token costs, as a share of what the task's success is worth; 0: no pool.
        chance: how likely all calls made before are right, where there is a price.
    """

    this: Need
    others: tuple[Need, ...]
    room: float
    most: int
    made: int = 0
    price: float = 0.0
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
        why: the reason; `str` of it, when somebody asks, in words.
        numbers: behind it, for the log.
    """

    thinking: int
    why: object
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


def margin(slope: float, spread: float) -> float:
    """Tokens to keep free for what calls use beyond their averages, or below zero, to count on their using
    less.

    Of a room whose use is normal with standard deviation `spread`, a chain has the chance of Phi(z) to get
    by, when z spreads are kept. The next token gains `slope` (of the log of success) and costs phi(z) /
    Phi(z) / spread: so where a token gains little much is kept, and where nothing works without it, it is
    risked.
    """
    if spread <= 0:
        return 0.0
    gain = -slope * spread
    at = min(max(1, bisect_left(_GAINS, gain)), len(_GAINS) - 1)
    y0, y1, z0, z1 = _GAINS[at - 1], _GAINS[at], _SPREADS[at - 1], _SPREADS[at]
    z = z0 + (z1 - z0) * (gain - y0) / (y1 - y0)
    return spread * min(max(z, -6.0), 3.0)


_NORMAL = NormalDist()
_SPREADS = [i / 10 for i in range(-60, 31)]
_GAINS = [-_NORMAL.pdf(z) / _NORMAL.cdf(z) for z in _SPREADS]
"""-phi(z) / Phi(z) for each z of `_SPREADS`, both rising."""


class _Segment(NamedTuple):
    """A piece of an envelope, and who wants it.

    Attributes:
        slope: gain per expected token, weighted.
        use: expected tokens of one call.
        calls: how many calls want it.
        end: where it ends.
        mine: it is this call's.
        rivals: how many others want the same.
    """

    slope: float
    use: float
    calls: int
    end: Vertex
    mine: bool = False
    rivals: int = 0


class _Rung(NamedTuple):
    """A segment in its turn.

    Attributes:
        at: where this call stands before it.
        kept: tokens that have to stay free when it is given.
        before: expected tokens of all that is steeper.
        total: of this one, for all calls that want it.
        wanted: those of this call and its rivals; 0 where it isn't this call's.
    """

    segment: _Segment
    at: Vertex
    kept: float
    before: float
    total: float
    wanted: float


class _Reason(NamedTuple):
    """Why `Marginal` chose so.

    Attributes:
        calls: to come.
        price: what a further token gains in them; 0: all have what they can use.
        dear: a token of the pool costs more than it gains here.
    """

    calls: int
    price: float
    dear: bool = False

    def __str__(self) -> str:
        if self.dear:
            return "more thinking gains less than its tokens cost in the pool"
        if not self.calls:
            return "no call is known to come after it"
        calls = "the 1 call" if self.calls == 1 else f"the {self.calls} calls"
        if self.price == 0.0:
            return f"there is room for all that {calls} to come can use"
        return f"more thinking gains more in {calls} to come"


def _success(curve: Curve, thinking: int) -> dict[str, float]:
    """The chance that the call succeeds, by a curve that was measured."""
    return {"success": curve.p(thinking)} if curve.measured else {}


class _Ladder(NamedTuple):
    """All that `Marginal` knows of a call and those to come before it is told how much room they have.

    Attributes:
        rungs: the segments, steepest first.
        rooms: for each of them, about the room that it takes to get beyond it.
        top: where this call stands beyond all of them.
        calls: how many are to come.
        points: before each rung, and beyond all: expected tokens, and what all calls are worth with them (the
            chance that all succeed, or how many do).
    """

    rungs: tuple[_Rung, ...]
    rooms: tuple[float, ...]
    top: Vertex
    calls: int
    points: tuple[tuple[float, float], ...]


@lru_cache(maxsize=1024)
def _ladder(objective: Objective, this: Need, others: tuple[Need, ...]) -> _Ladder:
    """Made once for each mixture of calls: curves never change, so neither does this."""
    chain = objective == "chain"
    spread = math.sqrt(sum([need.calls * need.curve.variance for need in (this, *others)]))
    at, before = this.curve.envelopes[objective][0], 0.0
    worth = sum([n.weight * n.calls * n.curve.envelopes[objective][0].worth for n in (this, *others)])
    rungs, rooms, points = [], [], [(0.0, math.exp(worth) if chain else worth)]
    for segment in segments(objective, this, others):
        kept = margin(segment.slope, spread) if chain else spread
        total = segment.use * segment.calls
        wanted = segment.use * (1 + segment.rivals) if segment.mine else 0.0
        rungs.append(_Rung(segment, at, kept, before, total, wanted))
        rooms.append(kept + before + max(total, wanted))
        before += total
        worth += segment.slope * total
        points.append((before, math.exp(worth) if chain else worth))
        if segment.mine:
            at = segment.end
    calls = sum([need.calls for need in others])
    return _Ladder(tuple(rungs), tuple(accumulate(rooms, max)), at, calls, tuple(points))


def segments(objective: Objective, this: Need, others: tuple[Need, ...]) -> list[_Segment]:
    """The pieces of all envelopes, steepest first, ours before equals."""
    theirs = [
        _Segment(other.weight * slope, use, other.calls, end)
        for other in others
        for slope, use, end in other.curve.pieces[objective]
    ]
    ours = []
    for slope, use, end in this.curve.pieces[objective]:
        slope *= this.weight
        rivals = sum([other.calls for other in theirs if math.isclose(other.slope, slope)])
        ours.append(_Segment(slope, use, 1, end, mine=True, rivals=rivals))
    return sorted(theirs + ours, key=attrgetter("slope", "mine"), reverse=True)


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
        curve, room = state.this.curve, state.room
        ladder = _ladder(self.objective, state.this, state.others)
        calls, at, price, given, left = ladder.calls, ladder.top, 0.0, 0.0, room
        # Those before have room for sure. A hair early, since sums in another order round otherwise.
        first = bisect_left(ladder.rooms, room - 1e-9 * (1e3 + abs(room)))
        for rung in ladder.rungs[first:] or ladder.rungs[-1:]:
            segment, here, kept, given, total, wanted = rung
            left = room - kept - given
            if wanted > left > 0:
                at, left = self._part(curve, here, segment, left), 0.0
            elif left > 0:
                at = segment.end if wanted else here
                given += total
                left -= total
            else:
                at = here
            if left <= 0:
                price = segment.slope
                break
        if not at.thinking and not given and room <= 0:
            return Choice(0, "the smallest answers of the calls to come leave nothing to think with")
        thinking = at.thinking
        if state.price:
            return self._priced(state, ladder, thinking, price if left <= 0 else 0.0)
        if left > 0:  # nobody needs it: what is left over is shared, as far as it does no harm
            thinking = curve.onwards(thinking, left / (1 + calls))
        chosen = thinking if left > 0 and thinking <= state.most else curve.best(min(thinking, state.most))
        numbers = {"token_price": price, "ideal": thinking, **_success(curve, chosen)}
        return Choice(chosen, _Reason(calls, price), numbers)

    def _priced(self, state: State, ladder: _Ladder, thinking: int, price: float) -> Choice:
        """At most so much, and of the rungs no more than are worth their tokens.

        As many as make the worth of all, less the price of their tokens, greatest. A chain's worth is a
        product: where the first rungs gain little by themselves, all are taken or none.

        Args:
            thinking, price: what there is room for, and the slope at which it ends; 0: there is room for all.
        """
        curve, cost = state.this.curve, state.price
        if self.objective == "chain":  # one that has probably failed already is worth less
            cost /= state.chance
        points, rungs = list(ladder.points), ladder.rungs
        if price:
            stop = next(i for i, rung in enumerate(rungs) if rung.segment.slope == price)
            points = points[: stop + 1]
            part = min(state.room - rungs[stop].kept - rungs[stop].before, rungs[stop].total)
            if part > 0:
                tokens, worth = points[-1]
                gain = price * part
                worth = worth * math.exp(gain) if self.objective == "chain" else worth + gain
                points.append((tokens + part, worth))
        nets = [worth - cost * tokens for tokens, worth in points]
        best = nets.index(max(nets))
        dear = best < len(points) - 1
        if dear:
            thinking = rungs[best].at.thinking
        chosen = curve.best(min(thinking, state.most))
        numbers = {"token_price": price, "ideal": thinking, "pool_price": cost, **_success(curve, chosen)}
        return Choice(chosen, _Reason(ladder.calls, price, dear), numbers)

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
