"""A Codeforces rating and percentile from pass results.

The rating is the Elo rating under which the results are likeliest: a participant rated r solves a problem
rated p with probability 1 / (1 + 10 ** ((p - r) / 400)), which is how Codeforces defines the rating of a
problem. It needs problem ratings and nothing else. CodeElo (arXiv 2501.01257), and papers that follow it,
place each contest's score among its human participants instead; that needs the standings of every contest, so
the two numbers are close but not the same: say which one is reported.

The percentile is the share of people with a lower rating, so it needs a table of people. We ship none:
ratings drift, and the source, Codeforces' ``user.ratedList`` (https://codeforces.com/apiHelp/methods), asks
for a fresh look. `read_ratings` takes a JSON file: a list of ratings, or ``{"rating": number of people}``.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

LOWEST, HIGHEST = 0.0, 4500.0
SCALE = math.log(10) / 400


@dataclass(frozen=True, slots=True)
class Rating:
    """The likeliest rating. If all or none is solved, `rating` is the bound and `error` is infinite."""

    rating: float
    error: float
    """Standard error, in rating points."""
    problems: int
    solved: float


def rate(results: Iterable[tuple[float, float]]) -> Rating:
    """The rating that explains the results best; each result is (problem's rating, share of attempts passed).

    Several attempts at a problem are one result, so that more samples don't look like more problems.

    Raises:
        ValueError: there are no results, or a share is not between 0 and 1.
    """
    pairs = [(float(difficulty), float(share)) for difficulty, share in results]
    if not pairs:
        raise ValueError("no results to rate")
    if any(not 0.0 <= share <= 1.0 for _, share in pairs):
        raise ValueError("a share of passed attempts lies between 0 and 1")
    solved = sum(share for _, share in pairs)
    low, high = LOWEST, HIGHEST
    for _ in range(60):  # expected solves rise with the rating: bisect to the observed number
        middle = (low + high) / 2
        if sum(_chance(middle, difficulty) for difficulty, _ in pairs) < solved:
            low = middle
        else:
            high = middle
    rating = (low + high) / 2
    bounded = rating < LOWEST + 1 or rating > HIGHEST - 1
    chances = [_chance(rating, difficulty) for difficulty, _ in pairs]
    information = SCALE**2 * sum(chance * (1 - chance) for chance in chances)
    error = math.inf if bounded or information == 0 else 1 / math.sqrt(information)
    return Rating(round(rating, 1), error if math.isinf(error) else round(error, 1), len(pairs), solved)


def percentile(rating: float, people: Sequence[float]) -> float:
    """Per cent of `people` (sorted ratings) who are rated lower."""
    if not people:
        raise ValueError("no ratings of people to compare with")
    return round(100 * bisect_left(people, rating) / len(people), 1)


def read_ratings(path: str | Path) -> list[float]:
    """Sorted ratings of people from a JSON file: a list, or ``{"rating": count}``."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    if isinstance(found, dict):
        found = [rating for rating, count in found.items() for _ in range(int(count))]
    ratings = sorted(float(rating) for rating in found)
    if not ratings:
        raise ValueError(f"{path} holds no ratings")
    return ratings


def _chance(rating: float, difficulty: float) -> float:
    return 1 / (1 + math.exp(SCALE * (difficulty - rating)))
