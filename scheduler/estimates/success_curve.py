"""Success curves: how likely a call is to succeed, by its thinking tokens, per kind of call.

    curves = curve_files.load("e1-tiny")  # measured, or the generic prior for a model nobody measured
    curve = curves.curve("steps-3")
    curve.p(32), curve.used(32)         # success with at most 32; tokens that such a call uses on average

A curve has measured points (t, p), and is linear between them. Measured curves are neither concave nor
monotone: a cut in mid-step can be worse than no thinking. So `envelopes` holds the upper concave envelope
over *expected use*, which is what an allocation pays, and `best(limit)` gives the best point of the curve
itself up to a limit.

A kind without a curve gets the average of the measured kinds. A model without any gets a generic saturating
prior, whose scale is a share of the model's context length.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from .lengths import Lengths, between

LEAST_NET = 0.25
"""Thinking is planned to cost at least this share of its tokens, however much solution it spares."""

USUAL = 0.9
"""The share of answers for which the final answer's reserve is long enough."""

LEAST_SHARE = 0.02
"""The least share of calls that still think at a limit: a measured distribution says little about fewer."""

SPREAD = 0.4
"""Standard deviation of a solution's tokens, as a share of their mean."""

PRIOR_SCALE = 256.0
"""Thinking tokens after which the generic prior has gained 63% of what thinking can gain."""


Objective = Literal["chain", "each"]
"""What an allocation maximises: the chance that all calls succeed (the sum of log p), or how many do."""


class Vertex(NamedTuple):
    """A corner of an envelope: thinking tokens, their expected cost, and their worth."""

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


@dataclass(frozen=True, eq=False)
class Curve:
    """One kind's success by thinking tokens. It never changes, and is compared by identity.

    Attributes:
        points: (thinking tokens, success), by rising tokens, the first at 0.
        lengths: natural thinking lengths; None: a call is expected to use its whole limit.
        solution: average solution tokens, if known.
        solutions: the same by thinking limit, (thinking tokens, solution tokens), by rising tokens: a call
            whose thinking is cut does its work in the solution.
        right_solutions: how long right solutions are, by thinking limit, by rising tokens, if known.
        measured: False for the prior.
    """

    kind: str
    points: tuple[tuple[int, float], ...]
    lengths: Lengths | None = None
    solution: float | None = None
    measured: bool = True
    solutions: tuple[tuple[int, float], ...] = ()
    right_solutions: tuple[tuple[int, Lengths], ...] = ()

    @cached_property
    def envelopes(self) -> Mapping[Objective, tuple[Vertex, ...]]:
        """The vertices of the upper concave envelope, as far as it rises."""
        return {"chain": self._hull(math.log), "each": self._hull(float)}

    @cached_property
    def pieces(self) -> Mapping[Objective, tuple[Piece, ...]]:
        """The sides of the envelope."""
        return {
            name: tuple(Piece(a.slope(b), b.use - a.use, b) for a, b in pairwise(hull))
            for name, hull in self.envelopes.items()
        }

    @cached_property
    def unthought(self) -> float | None:
        """Average solution tokens of a call that doesn't think; None: unknown."""
        return self.solution_at(0)

    @cached_property
    def variance(self) -> float:
        """The variance of a call's tokens, thinking and solution, at its best limit."""
        best = self.envelopes["chain"][-1].thinking
        thought = 0.0 if self.lengths is None else self.lengths.variance(best)
        return thought + (SPREAD * (self.solution_at(best) or 0.0)) ** 2

    @cached_property
    def p90_solution(self) -> float:
        """Solution tokens that `USUAL` of the right answers without thinking need; infinity: unknown."""
        return self.right_solution_lengths(0).size(USUAL) if self.right_solutions else math.inf

    @cached_property
    def _net(self) -> tuple[tuple[int, float], ...]:
        """`net` at each point; empty where `solutions` is."""
        found, most = [], 0.0
        for t, _ in self.points if self.solutions else ():
            spared = (self.solution_at(0) or 0.0) - (self.solution_at(t) or 0.0)
            most = max(most, self.used(t) - spared, LEAST_NET * self.used(t))
            found.append((t, most))
        return tuple(found)

    @cached_property
    def _best_points(self) -> tuple[tuple[int, float], ...]:
        """For each point the best of those up to it; the first of equals."""
        return tuple(accumulate(self.points, lambda best, new: new if new[1] > best[1] else best))

    def p(self, thinking: float) -> float:
        """Success with at most so many thinking tokens."""
        return between(self.points, thinking)

    def solution_at(self, thinking: float) -> float | None:
        """Solution tokens that a call with this thinking limit uses on average; None: unknown."""
        return between(self.solutions, thinking) if self.solutions else self.solution

    def fit_probability(self, thinking: float, solution: float) -> float:
        """The share of right solutions with this thinking limit that fit in so many tokens; 1: unknown."""
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
        """How long right solutions are with the next lower measured limit (or the lowest)."""
        return self.right_solutions[max(0, bisect_right(self.right_solutions, thinking, key=_first) - 1)][1]

    def net(self, thinking: float) -> float:
        """The average cost of a thinking limit, in tokens: the thinking, less the solution that it spares."""
        return between(self._net, thinking) if self._net else self.used(thinking)

    def used(self, thinking: float) -> float:
        """Thinking tokens that a call with this limit uses on average."""
        return float(thinking) if self.lengths is None else self.lengths.used(thinking)

    def gain(self, used: float, limit: float) -> float:
        """By how much a right answer gets likelier for a call that still thinks after `used` tokens.

        p counts all calls, and those that ended by themselves gain nothing from a higher limit.
        """
        still = max(self.used(used + 1) - self.used(used), LEAST_SHARE)
        return (self.p(limit) - self.p(used)) / still

    def best(self, limit: int) -> int:
        """The limit, at most this one, with the likeliest success; the smallest of equals."""
        below = bisect_left(self.points, (limit,))
        if below:
            thinking, p = self._best_points[below - 1]
            if below == len(self.points) or p >= self.p(limit):
                return thinking
        return limit

    def extend_limit(self, thinking: int, use: float) -> int:
        """The largest limit that is as good as this one and costs at most `use` tokens more on average.

        Without measurements the limit takes all of these tokens: more thinking may help. A kind that is best
        without thinking gets none: a smoothed curve is flat at first where thinking does harm.
        """
        if not self.measured:
            return thinking + int(use)
        if not thinking:
            return 0
        p, most = self.p(thinking), self.net(thinking) + use
        as_good = [t for t, here in self.points if t > thinking and here >= p and self.net(t) <= most]
        return as_good[-1] if as_good else thinking

    def _hull(self, worth: Callable[[float], float]) -> tuple[Vertex, ...]:
        return concave_hull(Vertex(t, self.net(t), worth(p)) for t, p in self.points)


def concave_hull(vertices: Iterable[Vertex]) -> tuple[Vertex, ...]:
    """The vertices of the upper concave envelope of worth over use, as far as it rises."""
    hull: list[Vertex] = []
    for new in vertices:
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


@cache
def prior(kind: str = "", scale: float = PRIOR_SCALE) -> Curve:
    """The generic curve: .2 without thinking, rising to .8, with most of the gain within `scale` tokens."""
    shares = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    return Curve(
        kind,
        tuple((round(x * scale), 0.2 + 0.6 * (1 - math.exp(-x))) for x in shares),
        measured=False,
    )


@dataclass(frozen=True)
class CurveSet:
    """The curves of one model.

    Attributes:
        model: the model's name.
        kinds: the measured curves.
        solution: the solution tokens (s) that they were measured with; None for a prior.
        scale: of the prior, where nothing was measured.
    """

    model: str
    kinds: Mapping[str, Curve] = field(default_factory=dict)
    solution: int | None = None
    scale: float = PRIOR_SCALE

    def curve(self, kind: str) -> Curve:
        """The curve of a kind; the average of the measured ones, or the prior, for a kind not measured."""
        return self.kinds.get(kind) or self._average or prior(kind, self.scale)

    @cached_property
    def _average(self) -> Curve | None:
        curves = list(self.kinds.values())
        if not curves:
            return None
        lengths = [curve.lengths for curve in curves if curve.lengths is not None]
        solutions = [curve.solution for curve in curves if curve.solution is not None]
        by_limit: tuple[tuple[int, float], ...] = ()
        if all(curve.solutions for curve in curves):
            by_limit = tuple((t, _mean([c.solution_at(t) or 0.0 for c in curves])) for t in _limits(curves))
        sized = [curve for curve in curves if curve.right_solutions]
        return Curve(
            "",
            tuple((t, _mean([curve.p(t) for curve in curves])) for t in _limits(curves)),
            Lengths.mixture(lengths) if lengths else None,
            _mean(solutions) if solutions else None,
            solutions=by_limit,
            right_solutions=tuple(
                (t, Lengths.mixture([curve.right_solution_lengths(t) for curve in sized]))
                for t in sorted({t for curve in sized for t, _ in curve.right_solutions})
            ),
        )


def _limits(curves: Sequence[Curve]) -> list[int]:
    return sorted({t for curve in curves for t, _ in curve.points})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
