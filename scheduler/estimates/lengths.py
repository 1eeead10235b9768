"""How long something is: a distribution of tokens, and functions that are linear between points."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long something is when it isn't cut: a piecewise linear distribution of tokens.

    Attributes:
        knots: (tokens, share that is longer), falling from 1 to 0.
    """

    knots: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, p50: float, p90: float, p99: float) -> Lengths:
        """The distribution with these percentiles; it ends at 1.25 times the third."""
        p90 = max(p90, p50)
        p99 = max(p99, p90, 1.0)
        return cls(((0.0, 1.0), (p50, 0.5), (p90, 0.1), (p99, 0.01), (1.25 * p99, 0.0)))

    @classmethod
    def mixture(cls, lengths: Sequence[Lengths]) -> Lengths:
        """The average of these at each of their percentiles."""
        knots = zip(*(one.knots for one in lengths), strict=True)
        return cls(tuple((math.fsum(x for x, _ in k) / len(k), k[0][1]) for k in map(list, knots)))

    def used(self, limit: float) -> float:
        """Expected tokens when cut at `limit`: E[min(length, limit)]."""
        total = 0.0
        for (x0, s0), (x1, s1) in zip(self.knots, self.knots[1:], strict=False):
            if limit <= x0:
                break
            right = min(limit, x1)
            at = s1 if x1 == x0 else s0 + (s1 - s0) * (right - x0) / (x1 - x0)
            total += (right - x0) * (s0 + at) / 2
        return total

    def variance(self, limit: float) -> float:
        """Variance of the tokens used when cut at `limit`; E[min²] is the integral of 2x * (share longer)."""
        square = 0.0
        for (x0, s0), (x1, s1) in zip(self.knots, self.knots[1:], strict=False):
            if limit <= x0:
                break
            right = min(limit, x1)
            at = s1 if x1 == x0 else s0 + (s1 - s0) * (right - x0) / (x1 - x0)
            square += (right - x0) * (x0 * (2 * s0 + at) + right * (s0 + 2 * at)) / 3
        return max(0.0, square - self.used(limit) ** 2)

    def longer(self, tokens: float) -> float:
        """The share that is longer than so many tokens."""
        return between(self.knots, tokens)

    def size(self, share: float) -> float:
        """The tokens that this share keeps to."""
        for (x0, s0), (x1, s1) in pairwise(self.knots):
            if s1 <= 1 - share:
                return x1 if s0 == s1 else x0 + (x1 - x0) * (s0 - (1 - share)) / (s0 - s1)
        return self.knots[-1][0]

    @property
    def longest(self) -> int:
        """The largest length."""
        return math.ceil(self.knots[-1][0])


def between(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at x of a function that is linear between its points, and flat beyond them."""
    at = bisect_right(points, (x, math.inf)) - 1
    x0, y0 = points[max(0, at)]
    if at + 1 == len(points) or x <= x0:
        return y0
    x1, y1 = points[at + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
