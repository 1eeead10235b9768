"""The best split of a cap, exactly: in hindsight or with known curves, and its bounds. For measuring only.

A call is a row of options, (tokens, worth). One option of each call is taken, and the tokens must stay within
the cap: the multiple-choice knapsack. `best_split` solves it exactly by dynamic programming over tokens;
`lp_bound` solves the relaxation in which an option may be taken in part, which no split can beat.

- *Hindsight*: worth 1 where the measured outcome was right, else 0. No decision before the outcome can reach
  it. For a chain, where all calls must be right, worth is 0 or minus infinity.
- *Curves*: worth p(t) or log p(t), tokens the expected ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..estimates.success_curve import Vertex, concave_hull


class Option(NamedTuple):
    """One way to make a call: its cost and its worth."""

    tokens: int
    worth: float


@dataclass(frozen=True, slots=True)
class Split:
    """The best split: its worth, and the option of each call; -inf and () when nothing fits."""

    worth: float
    taken: tuple[int, ...]


def best_split(calls: Sequence[Sequence[Option]], cap: int) -> Split:
    """The exact optimum, in time calls * options * cap.

    Args:
        calls: the options of each call, at least one.
        cap: tokens of all calls together.
    """
    best: list[float] = [0.0] * (cap + 1) if cap >= 0 else []  # by tokens left
    choices: list[list[int]] = []
    for options in reversed(calls):
        after, best, chosen = best, [], []
        for left in range(cap + 1):
            worth, which = -math.inf, -1
            for i, option in enumerate(options):
                if option.tokens <= left and option.worth + after[left - option.tokens] > worth:
                    worth, which = option.worth + after[left - option.tokens], i
            best.append(worth)
            chosen.append(which)
        choices.append(chosen)
    if not best or best[cap] == -math.inf:
        return Split(-math.inf, ())
    left, taken = cap, []
    for options, chosen in zip(calls, reversed(choices), strict=True):
        taken.append(chosen[left])
        left -= options[chosen[left]].tokens
    return Split(best[cap], tuple(taken))


def lp_bound(calls: Sequence[Sequence[Option]], cap: int) -> float:
    """The worth of the relaxation: at least that of every split; -inf when not even the cheapest options fit.

    Options worth minus infinity are left out, since no part of them may be taken.
    """
    worth, left, steps = 0.0, float(cap), []
    for options in calls:
        by_cost = sorted((Vertex(0, o.tokens, o.worth) for o in options if o.worth > -math.inf), key=_cost)
        hull = concave_hull(by_cost)
        if not hull:
            return -math.inf
        worth, left = worth + hull[0].worth, left - hull[0].use
        steps += [(a.slope(b), b.use - a.use) for a, b in pairwise(hull)]
    if left < 0:
        return -math.inf
    for slope, use in sorted(steps, reverse=True):
        part = min(use, left)
        worth, left = worth + slope * part, left - part
    return worth


def _cost(vertex: Vertex) -> tuple[float, float]:
    return vertex.use, vertex.worth
