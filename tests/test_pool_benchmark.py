"""The pool's benchmark: its bounds are bounds, and its replay keeps the pool."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import pool as bench
from benchmarks._replay import load


def test_a_short_stream(tmp_path: Path) -> None:
    """No cap is broken, no policy is clairvoyant; without traces the result says so."""
    found = bench.play_seed(tmp_path, 40, 7, (0.5,), constant=False)
    row = found["rows"][0.5]
    assert found["source"] == "exponential"
    assert found["violations"] == 0
    assert found["tasks"] == 5 * 40
    assert max(row["value"].values()) <= row["clairvoyant"] <= 1
    assert row["hindsight"] <= row["clairvoyant"]
    assert max(row["used"].values()) <= 1


def test_the_truth_is_what_was_measured() -> None:
    """A task's ways cost more and are likelier one after the other; none is likelier than the best cuts."""
    outcomes = load()
    truth = bench.Truth(outcomes)
    _, arrivals = bench.stream(Path("nowhere"), outcomes, 5, 3)
    for one in arrivals:
        options = truth.options(one)
        assert options == sorted(options)
        assert 0 < options[-1].worth <= one.value


def test_times_are_in_order(tmp_path: Path) -> None:
    """Within a day, from its first second on."""
    _, times = bench.times(tmp_path, 100, random.Random(0))
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] == pytest.approx(bench.DAY - 600)
