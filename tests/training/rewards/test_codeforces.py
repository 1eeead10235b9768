"""Codeforces rating and percentile from pass results."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from elastic_agent.training.rewards.codeforces import percentile, rate, read_ratings


def test_half_of_equal_problems_is_their_rating() -> None:
    found = rate([(1500, 1), (1500, 0)])
    assert found.rating == pytest.approx(1500, abs=0.1)
    assert found.error == pytest.approx(400 / math.log(10) / math.sqrt(0.5), abs=0.1)


def test_ten_to_one_is_400_points() -> None:
    """The definition of the scale: 400 points above a problem, it is solved ten times of eleven."""
    assert rate([(1200, 10 / 11)] * 5).rating == pytest.approx(1600, abs=0.1)


def test_a_known_rating_is_found_again() -> None:
    rng = random.Random(0)
    problems = [rng.randrange(800, 3000, 100) for _ in range(2000)]
    results = [(p, float(rng.random() < 1 / (1 + 10 ** ((p - 1800) / 400)))) for p in problems]
    found = rate(results)
    assert abs(found.rating - 1800) < 3 * found.error


def test_all_or_nothing_has_no_finite_estimate() -> None:
    assert math.isinf(rate([(1500, 1)]).error)
    assert math.isinf(rate([(1500, 0)]).error)
    assert rate([(1500, 1)]).rating > rate([(1500, 0)]).rating


def test_percentile_is_the_share_rated_lower(tmp_path: Path) -> None:
    table = tmp_path / "ratings.json"
    table.write_text(json.dumps({"1000": 3, "2000": 1}))
    assert read_ratings(table) == [1000, 1000, 1000, 2000]
    assert [percentile(r, read_ratings(table)) for r in (900, 1000, 1500, 2500)] == [0, 0, 75, 100]
    table.write_text("[3, 1, 2]")
    assert read_ratings(table) == [1, 2, 3]


def test_nothing_to_rate_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("{}")
    for call in (lambda: rate([]), lambda: rate([(1, 2)]), lambda: percentile(1, [])):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(ValueError, match="no ratings"):
        read_ratings(tmp_path / "empty.json")
