"""Success curves: how likely a call is to succeed, by its thinking tokens, per kind of call.

    curves = curve_files.load("e1-tiny")  # measured, or the generic prior for a model nobody measured
    curve = curves.curve("steps-3")
    curve.p(32), curve.used(32)         # success with at most 32; tokens that such a call uses on average

A curve is made of measured points (t, p, n) and is linear between them. Measured curves are neither concave
nor monotone (a cut in mid-step can be worse than no thinking), so nobody may assume it: `envelopes` holds
the vertices of the upper concave envelope over *expected use*, which is what an allocation pays, and
`best(limit)` the best point of the real curve up to a limit.

Success is smoothed with half a success and half a failure, since log p is what is added up and p=0 out of 500
is not impossible. A kind that was not measured gets the average of those that were; a model that was not
measured gets a generic saturating prior whose scale is a share of its context length.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from .lengths import Lengths, between

LEAST_NET = 0.25
"""However much solution it spares, thinking is planned to cost at least this share of its tokens."""

USUAL = 0.9
"""The share of answers for which the final answer's reserve is long enough."""

LEAST_SHARE = 0.02
"""Of calls that still think: a measured distribution says little about fewer."""

SPREAD = 0.4
"""Standard deviation of a solution's tokens, as a share of their mean."""

PRIOR_SCALE = 256.0
"""Thinking tokens after which the generic prior has gained 63% of what thinking can gain."""


Objective = Literal["chain", "each"]
"""What an allocation maximises: the chance that all calls succeed (the sum of log p), or how many do."""


class Vertex(NamedTuple):
    """A corner of an envelope: thinking tokens, what they are expected to cost, and what they are worth."""

    thinking: int
    use: float
    worth: float

    def slope(self, other: Vertex) -> float:
        """Worth gained per expected token on the way to `other`."""
        return (other.worth - self.worth) / (other.use - self.use)


class Piece(NamedTuple):
    """A side of an envelope: worth gained per expected token, expected tokens, and where it ends."""

    slope: float
    use: float
    end: Vertex


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One kind's success by thinking tokens.

    It never changes, and is compared by identity: what follows from curves can be kept by them.

    Attributes:
        kind: the kind that it is for.
        points: (thinking tokens, success), by rising tokens, the first at 0.
        lengths: natural thinking lengths, if known; else a call is expected to use all that it gets.
        solution: average solution tokens, if known.
        solutions: the same by thinking limit, (thinking tokens, solution tokens), by rising tokens: a call
            whose thinking is cut does its work in the solution.
        right_solutions: how long right solutions are, by thinking limit, by rising tokens, if known.
        measured: False for the prior.
        envelopes, pieces: vertices and sides of the upper concave envelope.
        unthought: average solution tokens of a call that doesn't think; None when nobody measured.
        variance: of the tokens that such a call uses, thinking and solution, at its best limit.
        p90_solution: solution tokens that `USUAL` of the right answers need that were not thought about;
            infinity if nobody measured.
    """

    kind: str
    points: tuple[tuple[int, float], ...]
    lengths: Lengths | None = None
    solution: float | None = None
    measured: bool = True
    solutions: tuple[tuple[int, float], ...] = ()
    right_solutions: tuple[tuple[int, Lengths], ...] = ()
    envelopes: Mapping[Objective, tuple[Vertex, ...]] = field(init=False, repr=False)
    pieces: Mapping[Objective, tuple[Piece, ...]] = field(init=False, repr=False)
    unthought: float | None = field(init=False, repr=False)
    _champions: tuple[tuple[int, float], ...] = field(init=False, repr=False)
    variance: float = field(init=False, repr=False)
    p90_solution: float = field(init=False, repr=False)
    _net: tuple[tuple[int, float], ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        if self.solutions:
            net, most = [], 0.0
            for t, _ in self.points:
                spared = (self.solution_at(0) or 0.0) - (self.solution_at(t) or 0.0)
                most = max(most, self.used(t) - spared, LEAST_NET * self.used(t))
                net.append((t, most))
            object.__setattr__(self, "_net", tuple(net))
        hulls = {"chain": self._hull(math.log), "each": self._hull(float)}
        object.__setattr__(self, "envelopes", hulls)
        object.__setattr__(self, "unthought", self.solution_at(0))
        object.__setattr__(self, "pieces", {name: _pieces(hull) for name, hull in hulls.items()})
        object.__setattr__(self, "_champions", tuple(accumulate(self.points, _better)))
        best = hulls["chain"][-1].thinking
        wrote = SPREAD * (self.solution_at(best) or 0.0)
        thought = 0.0 if self.lengths is None else self.lengths.variance(best)
        object.__setattr__(self, "variance", thought + wrote**2)
        object.__setattr__(
            self,
            "p90_solution",
            self.right_solution_lengths(0).size(USUAL) if self.right_solutions else math.inf,
        )

    def p(self, thinking: float) -> float:
        """Success with at most so many thinking tokens."""
        return between(self.points, thinking)

    def solution_at(self, thinking: float) -> float | None:
        """Solution tokens that a call with this thinking limit uses on average; None when nobody measured."""
        return between(self.solutions, thinking) if self.solutions else self.solution

    def fit_probability(self, thinking: float, solution: float) -> float:
        """The share of right solutions with this thinking limit that so many tokens hold; 1 if unknown."""
        if not self.right_solutions:
            return 1.0
        at = bisect_right(self.right_solutions, thinking, key=_first) - 1
        t0, below = self.right_solutions[max(0, at)]
        fits = 1 - below.longer(solution)
        if at + 1 == len(self.right_solutions) or thinking <= t0:
            return fits
        t1, above = self.right_solutions[at + 1]
        return fits + (1 - above.longer(solution) - fits) * (thinking - t0) / (t1 - t0)

    def right_solution_lengths(self, thinking: int) -> Lengths:
        """How long right solutions are with the measured limit that is next below (or above)."""
        return self.right_solutions[max(0, bisect_right(self.right_solutions, thinking, key=_first) - 1)][1]

    def net(self, thinking: float) -> float:
        """What a thinking limit costs on average beyond none: the thinking, less the solution it spares."""
        return between(self._net, thinking) if self._net else self.used(thinking)

    def used(self, thinking: float) -> float:
        """Thinking tokens that a call with this limit uses on average."""
        return float(thinking) if self.lengths is None else self.lengths.used(thinking)

    def gain(self, used: float, limit: float) -> float:
        """How much likelier a right answer gets for a call that still thinks after `used` tokens.

        p is of all calls; those that have ended by themselves before gain nothing from a higher limit.
        """
        still = max(self.used(used + 1) - self.used(used), LEAST_SHARE)
        return (self.p(limit) - self.p(used)) / still

    def best(self, limit: int) -> int:
        """The limit, at most this, under which success is likeliest; the smallest of equals."""
        below = bisect_left(self.points, (limit,))
        if below:
            thinking, p = self._champions[below - 1]
            if below == len(self.points) or p >= self.p(limit):
                return thinking
        return limit

    def extend_limit(self, thinking: int, use: float) -> int:
        """The largest limit that is as good as this one and costs at most so much more on average.

        Where nothing was measured nothing says that still more helps, or that it doesn't.
        """
        if not self.measured:
            return thinking + int(use)
        p, most = self.p(thinking), self.net(thinking) + use
        as_good = [t for t, here in self.points if t > thinking and here >= p and self.net(t) <= most]
        return as_good[-1] if as_good else thinking

    def _hull(self, worth: Callable[[float], float]) -> tuple[Vertex, ...]:
        """Vertices of the upper concave envelope of worth(p) over expected use, as far as it rises."""
        hull: list[Vertex] = []
        for t, p in self.points:
            new = Vertex(t, self.net(t), worth(p))
            if hull and new.worth <= hull[-1].worth:
                continue  # not better than a cheaper point
            while hull and new.use <= hull[-1].use:
                hull.pop()  # as cheap, and better
            while len(hull) >= 2 and hull[-2].slope(new) >= hull[-2].slope(hull[-1]):
                hull.pop()
            hull.append(new)
        return tuple(hull)


def _first(pair: tuple[int, Lengths]) -> int:
    return pair[0]


def _pieces(hull: Sequence[Vertex]) -> tuple[Piece, ...]:
    return tuple(Piece(a.slope(b), b.use - a.use, b) for a, b in pairwise(hull))


def _better(best: tuple[int, float], new: tuple[int, float]) -> tuple[int, float]:
    return new if new[1] > best[1] else best


@cache
def prior(kind: str = "", scale: float = PRIOR_SCALE) -> Curve:
    """The generic curve: .2 without thinking, rising to .8, with most of the gain within `scale` tokens."""
    shares = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    return Curve(
        kind,
        tuple((round(x * scale), 0.2 + 0.6 * (1 - math.exp(-x))) for x in shares),
        measured=False,
    )


@dataclass(frozen=True, slots=True)
class CurveSet:
    """The curves of one model.

    Attributes:
        model: its name.
        kinds: the measured curves.
        solution: the solution tokens (s) that they were measured with; None for a prior.
        scale: of the prior, where nothing was measured.
    """

    model: str
    kinds: Mapping[str, Curve] = field(default_factory=dict)
    solution: int | None = None
    scale: float = PRIOR_SCALE
    _average: Curve | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kinds:
            object.__setattr__(self, "_average", _average(list(self.kinds.values())))

    def curve(self, kind: str) -> Curve:
        """The curve of a kind; the average of the measured ones, or the prior, for a kind not measured."""
        return self.kinds.get(kind) or self._average or prior(kind, self.scale)


def _average(curves: Sequence[Curve]) -> Curve:
    at = sorted({t for curve in curves for t, _ in curve.points})
    points = tuple((t, math.fsum(curve.p(t) for curve in curves) / len(curves)) for t in at)
    lengths = [curve.lengths for curve in curves if curve.lengths is not None]
    middle: Lengths | None = None
    if lengths:
        middle = Lengths.mixture(lengths)
    solutions = [curve.solution for curve in curves if curve.solution is not None]
    by_limit: tuple[tuple[int, float], ...] = ()
    if all(curve.solutions for curve in curves):
        by_limit = tuple(
            (t, math.fsum(curve.solution_at(t) or 0.0 for curve in curves) / len(curves)) for t in at
        )
    right_solutions: tuple[tuple[int, Lengths], ...] = ()
    if any(curve.right_solutions for curve in curves):
        at = sorted({t for curve in curves for t, _ in curve.right_solutions})
        right_solutions = tuple(
            (t, Lengths.mixture([one.right_solution_lengths(t) for one in curves if one.right_solutions]))
            for t in at
        )
    return Curve("", points, middle, _mean(solutions), solutions=by_limit, right_solutions=right_solutions)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
