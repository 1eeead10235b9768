"""The default policy: every thinking token goes where it gains most.

Each call's success curve becomes a concave envelope over expected use. The segments of all envelopes,
steepest first, fill the room: the multiplier search of the knapsack's relaxation without the bisection, since
the slope of the first segment that finds no room is the multiplier. The gap to the best split is at most one
call's segment. Calls that want the same segment share it evenly where the curve itself allows; where a gain
comes all at once, the first call takes the whole segment. The allocator asks again after every refund.

Uses are averages, and a sum of averages is exceeded half of the time. So a part of the room is kept free
(`margin`): much where tokens gain little, and less than nothing where a chain can only succeed if its calls
happen to use little. There the room is overdrawn on purpose. Independent calls keep nothing free: a call that
uses more than its average takes from the next ones what they would have gained, and no more.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from statistics import NormalDist
from typing import NamedTuple

from ..estimates.success_curve import Curve, Objective, Vertex
from .protocol import Choice, Need, State


def margin(slope: float, spread: float) -> float:
    """Tokens to keep free for what calls use beyond their averages; below zero, tokens to overdraw.

    Where the use of a room is normal with standard deviation `spread`, a chain that keeps z spreads free gets
    by with probability Phi(z). The next token gains `slope` (of the log of success) and costs phi(z) / Phi(z)
    / spread. So much is kept where a token gains little, and the room is risked where nothing works without
    more.
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
    """A side of an envelope, and the calls that want it.

    Attributes:
        slope: gain per expected token, weighted.
        use: expected tokens of one call.
        calls: how many calls want it.
        end: where it ends.
        mine: it is this call's.
        rivals: how many other calls want a segment of the same slope.
    """

    slope: float
    use: float
    calls: int
    end: Vertex
    mine: bool = False
    rivals: int = 0


class Step(NamedTuple):
    """One step of a `GainSchedule`: a segment in its turn.

    Attributes:
        start: where this call stands before the step.
        margin: tokens that have to stay free after the step.
        before: expected tokens of all steeper segments.
        total: expected tokens of this segment, for all calls that want it.
        wanted: expected tokens of this call and its rivals; 0 where the segment isn't this call's.
    """

    segment: _Segment
    start: Vertex
    margin: float
    before: float
    total: float
    wanted: float


class GainSchedule(NamedTuple):
    """The order in which this call and the calls to come are given tokens, for any room.

    Attributes:
        steps: the segments, steepest first.
        rooms: for each step about the room that it takes to get beyond it.
        top: where this call stands beyond all steps.
        calls: how many calls are to come.
        points: before each step, and beyond all: expected tokens, and the worth of all calls with them (the
            chance that all succeed, or how many do).
    """

    steps: tuple[Step, ...]
    rooms: tuple[float, ...]
    top: Vertex
    calls: int
    points: tuple[tuple[float, float], ...]


@lru_cache(maxsize=1024)
def gain_schedule(objective: Objective, this: Need, others: tuple[Need, ...]) -> GainSchedule:
    """The schedule for these calls; cached, since curves never change."""
    chain = objective == "chain"
    spread = math.sqrt(sum([n.calls * n.curve.variance for n in (this, *others)])) if chain else 0.0
    at, before = this.curve.envelopes[objective][0], 0.0
    worth = sum([n.weight * n.calls * n.curve.envelopes[objective][0].worth for n in (this, *others)])
    steps, rooms, points = [], [], [(0.0, math.exp(worth) if chain else worth)]
    for segment in segments(objective, this, others):
        kept = margin(segment.slope, spread)
        total = segment.use * segment.calls
        wanted = segment.use * (1 + segment.rivals) if segment.mine else 0.0
        steps.append(Step(segment, at, kept, before, total, wanted))
        rooms.append(kept + before + max(total, wanted))
        before += total
        worth += segment.slope * total
        points.append((before, math.exp(worth) if chain else worth))
        if segment.mine:
            at = segment.end
    calls = sum([need.calls for need in others])
    return GainSchedule(tuple(steps), tuple(accumulate(rooms, max)), at, calls, tuple(points))


def segments(objective: Objective, this: Need, others: tuple[Need, ...]) -> list[_Segment]:
    """The sides of all envelopes, steepest first, this call's before others of the same slope."""
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


class _Reason(NamedTuple):
    """Why `Marginal` chose its limit.

    Attributes:
        calls: how many are to come.
        slope: what a further token gains in these; 0: all have what they can use.
        dear: a token of the pool costs more than it gains in this call.
        idle: there is room, and the kind is as good without thinking.
    """

    calls: int
    slope: float
    dear: bool = False
    idle: bool = False

    def __str__(self) -> str:
        if self.idle:
            return "calls of this kind are as good without thinking"
        if self.dear:
            return "more thinking gains less than its tokens cost in the pool"
        if not self.calls:
            return "no call is known to come after it"
        calls = "the 1 call" if self.calls == 1 else f"the {self.calls} calls"
        if self.slope == 0.0:
            return f"there is room for all that {calls} to come can use"
        return f"more thinking gains more in {calls} to come"


@dataclass(frozen=True, slots=True)
class Marginal:
    """Every token goes where it gains most.

    Args:
        objective: "chain" maximises the chance that all calls succeed (sum of log p), for steps that build on
            each other; "each" the number of calls that succeed (sum of p), for independent problems.
    """

    objective: Objective = "chain"
    name: str = "marginal"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        schedule = gain_schedule(self.objective, state.this, state.others)
        at, slope, given, left = self._fill(schedule, state.this.curve, state.room)
        if not at.thinking and not given and state.room <= 0:
            return Choice(0, "the smallest answers of the calls to come leave nothing to think with")
        if state.pool_price:
            return self._at_pool_price(state, schedule, at.thinking, slope if left <= 0 else 0.0)
        curve, thinking = state.this.curve, at.thinking
        if left > 0:  # the rest of the room is shared, as far as more thinking does no harm
            thinking = curve.extend_limit(thinking, left / (1 + schedule.calls))
        chosen = thinking if left > 0 and thinking <= state.most else curve.best(min(thinking, state.most))
        numbers = {"token_price": slope, "ideal": thinking}
        if curve.measured:
            numbers["success"] = curve.p(chosen)
        idle = curve.measured and left > 0 and not chosen
        return Choice(chosen, _Reason(schedule.calls, slope, idle=idle), numbers)

    def _fill(self, schedule: GainSchedule, curve: Curve, room: float) -> tuple[Vertex, float, float, float]:
        """Give the steps their tokens, in order, up to the first that finds no room.

        Returns:
            where this call stands then; what a further token gains, 0 where there is room for all; the
            expected tokens given; the tokens left, at most 0 where the room ends first.
        """
        at, given, left = schedule.top, 0.0, room
        # The steps before the first have room for sure. A hair early: sums in another order round otherwise.
        first = bisect_left(schedule.rooms, room - 1e-9 * (1e3 + abs(room)))
        for segment, start, kept, before, total, wanted in schedule.steps[first:] or schedule.steps[-1:]:
            given, left = before, room - kept - before
            if wanted > left > 0:
                at, left = self._part(curve, start, segment, left), 0.0
            elif left > 0:
                at = segment.end if wanted else start
                given += total
                left -= total
            else:
                at = start
            if left <= 0:
                return at, segment.slope, given, left
        return at, 0.0, given, left

    def _at_pool_price(self, state: State, schedule: GainSchedule, thinking: int, slope: float) -> Choice:
        """Take as many steps as make the worth of all calls, less the price of their tokens, greatest.

        A chain's worth is a product: where the first steps gain little by themselves, all are taken or none.

        Args:
            thinking, slope: what there is room for, and the slope at which it ends; 0: there is room for all.
        """
        curve, cost = state.this.curve, state.pool_price
        if self.objective == "chain":  # a chain that has probably failed already is worth less
            cost /= state.chance
        points = self._reachable(schedule, state.room, slope) if slope else list(schedule.points)
        nets = [worth - cost * tokens for tokens, worth in points]
        best = nets.index(max(nets))
        dear = best < len(points) - 1
        if dear:
            thinking = schedule.steps[best].start.thinking
        chosen = curve.best(min(thinking, state.most))
        numbers = {"token_price": slope, "ideal": thinking, "pool_price": cost}
        if curve.measured:
            numbers["success"] = curve.p(chosen)
        return Choice(chosen, _Reason(schedule.calls, slope, dear), numbers)

    def _reachable(self, schedule: GainSchedule, room: float, slope: float) -> list[tuple[float, float]]:
        """The points of the schedule up to the end of the room, which lies in the step with this slope."""
        stop, step = next((i, s) for i, s in enumerate(schedule.steps) if s.segment.slope == slope)
        points = list(schedule.points[: stop + 1])
        part = min(room - step.margin - step.before, step.total)
        if part > 0:
            tokens, worth = points[-1]
            gain = slope * part
            worth = worth * math.exp(gain) if self.objective == "chain" else worth + gain
            points.append((tokens + part, worth))
        return points

    def _part(self, curve: Curve, at: Vertex, segment: _Segment, left: float) -> Vertex:
        """How far this call gets into a segment that not all calls can have whole.

        An even share is best where the curve itself lies on or above the segment. Below (a gain that comes
        all at once) an even share would be wasted on every call: the first call takes the whole segment, if
        there is room.
        """
        even = self._reach(curve, at, segment.end, left / (1 + segment.rivals))
        chord = at.worth + (segment.end.worth - at.worth) / segment.use * (even.use - at.use)
        if even.worth >= chord - 1e-9:
            return even
        return segment.end if segment.use <= left else self._reach(curve, at, segment.end, left)

    def _reach(self, curve: Curve, at: Vertex, end: Vertex, left: float) -> Vertex:
        """The point towards `end` that `left` tokens reach, by expected use."""
        low, high = at.thinking, end.thinking
        while low < high:
            middle = (low + high + 1) // 2
            if curve.net(middle) - at.use <= left:
                low = middle
            else:
                high = middle - 1
        p = curve.p(low)
        return Vertex(low, curve.net(low), math.log(p) if self.objective == "chain" else p)
