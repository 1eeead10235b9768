"""A Codeforces rating for each cell of a grid, where the problems have ratings.

The rating and its percentile are those of `elastic_agent.training.rewards.codeforces`, which says how they
differ from a rating by contest standings.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...rewards.codeforces import Rating, percentile, rate
from ..results import Record
from .stats import Summary
from .tables import escape, markdown


@dataclass(frozen=True, slots=True)
class Rated:
    """The rating of one cell; `percentile` is None without a table of people."""

    model: str
    strategy: str
    t: int | None
    s: int
    found: Rating
    percentile: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As one flat mapping; an infinite error is None."""
        plain = asdict(self)
        rating = plain.pop("found")
        rating["error"] = None if math.isinf(rating["error"]) else rating["error"]
        return {**plain, **rating}


def rate_cells(
    records: Iterable[Record],
    cells: Sequence[Summary],
    ratings: Mapping[str, float],
    people: Sequence[float] = (),
) -> list[Rated]:
    """The rating of each cell, in their order.

    Args:
        records: samples; several of one problem count as one, with their share.
        cells: of the same samples.
        ratings: of problems, by id; samples of others don't count.
        people: sorted ratings of people, for percentiles.
    """
    by_cell: dict[tuple[str, str, int | None, int], dict[str, list[bool]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for r in records:
        if r.problem in ratings:
            by_cell[r.model, r.strategy, r.t, r.s][r.problem].append(r.right)
    rated = []
    for c in cells:
        if hits := by_cell.get((c.model, c.strategy, c.t, c.s)):
            found = rate((ratings[problem], statistics.fmean(right)) for problem, right in hits.items())
            below = percentile(found.rating, people) if people else None
            rated.append(Rated(c.model, c.strategy, c.t, c.s, found, below))
    return rated


def rating_table(rated: Sequence[Rated]) -> str:
    """A row a cell."""
    body = [
        [
            escape(r.model),
            r.strategy,
            "none" if r.t is None else str(r.t),
            str(r.s),
            f"{r.found.rating:.0f}",
            "no bound" if math.isinf(r.found.error) else f"{r.found.error:.0f}",
            "" if r.percentile is None else f"{r.percentile:.1f}",
            str(r.found.problems),
        ]
        for r in rated
    ]
    head = ["model", "strategy", "t", "s", "rating", "standard error", "percentile", "n"]
    return markdown(head, body)


def rating_report(rated: Sequence[Rated]) -> str:
    """The section of the page that an evaluation writes."""
    return (
        "\n## Codeforces rating\n\n"
        "The Elo rating under which the results are likeliest, from the problems' ratings alone; papers that "
        "place each contest among its participants report another number. Everything solved, or nothing, has "
        "no bound.\n\n"
        f"{rating_table(rated)}\n"
    )
