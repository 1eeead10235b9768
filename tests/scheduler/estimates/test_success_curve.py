"""Success curves: reading them, their envelopes, and what is assumed where nothing was measured."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elastic_agent.scheduler.estimates.curve_files import CurveFileError, load, load_file, parse
from elastic_agent.scheduler.estimates.lengths import Lengths
from elastic_agent.scheduler.estimates.success_curve import Curve, prior

FILE: dict[str, Any] = {
    "model": "mine",
    "s": 96,
    "kinds": {
        "steps-2": [[0, 0.77, 500], [16, 0.92, 500], [64, 0.92, 500], [None, 0.95, 500]],
        "steps-5": [[0, 0.22, 500], [16, 0.11, 500], [32, 0.29, 500], [64, 0.74, 500], [None, 0.8, 500]],
    },
    "natural_thinking": {
        "steps-2": {"mean": 30, "p50": 28, "p90": 50, "p99": 70},
        "steps-5": {"mean": 80, "p50": 75, "p90": 120, "p99": 160},
    },
    "solution_tokens": {"steps-2": {"mean": 12.5, "p50": 12, "p90": 20, "p99": 30}},
}


def test_a_file_is_read(tmp_path: Path) -> None:
    """Points are smoothed a little; t=null lies where nothing natural is longer."""
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(FILE))
    curves = load_file(path)
    assert (curves.model, curves.solution) == ("mine", 96)
    two = curves.curve("steps-2")
    assert two.p(16) == pytest.approx((0.92 * 500 + 0.5) / 501)
    assert two.points[-1][0] == 128  # twice the largest t, which is more than 1.25 * p99
    assert curves.curve("steps-5").points[-1][0] == 200
    assert two.solution == 12.5
    assert two.p(8) == pytest.approx((two.p(0) + two.p(16)) / 2)


def test_a_cut_in_mid_step_can_be_worse_than_none() -> None:
    """`best` looks for the best point within the limit, not at the limit."""
    five = parse(FILE).curve("steps-5")
    assert five.best(20) == 0
    assert five.best(64) == 64
    assert five.best(10**6) >= 200


def test_the_envelope_skips_what_no_multiplier_buys() -> None:
    """From 0 straight to 64: 16 and 32 lie below the line."""
    hull = parse(FILE).curve("steps-5").envelopes["each"]
    assert [vertex.thinking for vertex in hull][:2] == [0, 64]


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(0.01, 0.99)), min_size=1, max_size=9),
    st.floats(0.01, 0.99),
)
def test_envelopes_are_concave_and_above(points: list[tuple[int, float]], start: float) -> None:
    """For any points: rising, concave, and no point lies above."""
    given = {0: start} | dict(points)
    curve = Curve("k", tuple(sorted(given.items())), Lengths.of(60, 150, 300))
    for objective, worth in (("chain", math.log), ("each", float)):
        hull = curve.envelopes[objective]  # type: ignore[index]
        slopes = [a.slope(b) for a, b in pairwise(hull)]
        assert all(slope > 0 for slope in slopes)
        assert all(a >= b - 1e-9 for a, b in pairwise(slopes))
        for t, p in curve.points:
            use = curve.used(t)
            right = [v for v in hull if v.use <= use]
            top = max(v.worth for v in hull) if use >= hull[-1].use else None
            if top is None and right:
                a = right[-1]
                b = hull[hull.index(a) + 1]
                top = a.worth + a.slope(b) * (use - a.use)
            assert top is None or worth(p) <= top + 1e-9


@given(st.integers(0, 500), st.integers(0, 500))
def test_expected_use_rises_and_never_exceeds_the_limit(a: int, b: int) -> None:
    """E[min(length, t)] is between 0 and t, and monotone."""
    lengths = Lengths.of(75, 120, 160)
    low, high = sorted((a, b))
    assert 0 <= lengths.used(low) <= lengths.used(high) <= high
    assert lengths.used(10**6) == pytest.approx(lengths.used(lengths.longest))
    assert 70 < lengths.used(10**6) < 85


def test_kinds_and_models_that_nobody_measured() -> None:
    """A new kind gets the average of the measured ones, a new model the prior at its own scale."""
    curves = parse(FILE)
    average = curves.curve("new")
    assert average.p(64) == pytest.approx((curves.curve("steps-2").p(64) + curves.curve("steps-5").p(64)) / 2)
    assert average.lengths is not None
    unknown = load("no-such-model", scale=100).curve("x")
    assert not unknown.measured
    assert unknown == prior("x", 100)
    assert unknown.p(0) == pytest.approx(0.2)
    assert unknown.p(400) > 0.75


def test_names_that_are_paths_find_nothing() -> None:
    """A model's name never leads out of the package."""
    assert not load("../models/e1-tiny").kinds
    assert not load("Salesforce/E1-Math-1.5B").kinds


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kinds": {}}, "non-empty 'kinds'"),
        ({"s": 0}, "'s' a whole number"),
        ({"kinds": {"a": []}}, "list of"),
        ({"kinds": {"a": [[0, 1.5, 10]]}}, "p must lie in 0..1"),
        ({"kinds": {"a": [[-1, 0.5, 10]]}}, "t must be null or a whole number"),
        ({"kinds": {"a": [[0, 0.5, 10], [0, 0.6, 10]]}}, "each once"),
        ({"kinds": {"a": [[0, 0.5]]}}, "expected .t, p, n."),
        ({"natural_thinking": {"steps-2": {"p50": 1}}}, "mean, p50, p90 and p99"),
    ],
)
def test_bad_files_say_where(change: dict[str, Any], says: str) -> None:
    """Outside data is checked."""
    with pytest.raises(CurveFileError, match=says):
        parse(FILE | change)


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    """Named, with the reason."""
    path = tmp_path / "curves.json"
    path.write_text("{")
    with pytest.raises(CurveFileError, match="not JSON"):
        load_file(path)


def test_a_fall_within_its_error_is_averaged_away() -> None:
    """Of 210 problems .96 at 64 and .94 beyond are the same; .50 after .96 is not."""
    rows = [[0, 0.05, 210], [64, 0.9619, 210], [96, 0.9381, 210], [128, 0.9286, 210], [None, 0.9476, 210]]
    curve = parse({"model": "m", "s": 96, "kinds": {"call": rows}}).curve("call")
    levels = [p for _, p in curve.points]
    assert levels == sorted(levels)
    assert curve.p(64) == pytest.approx(curve.p(128))
    assert curve.p(64) < curve.p(10_000)
    worse = parse({"model": "m", "s": 96, "kinds": {"call": [[0, 0.96, 210], [8, 0.5, 210]]}}).curve("call")
    assert worse.p(8) == pytest.approx((0.5 * 210 + 0.5) / 211)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500)), min_size=1, max_size=12))
def test_averaging_keeps_the_mean(rows: list[tuple[float, int]]) -> None:
    """It moves success between neighbours and adds none: the mean over all samples stays."""
    table = [[8 * i, p, n] for i, (p, n) in enumerate(rows)]
    curve = parse({"model": "m", "s": 96, "kinds": {"call": table}}).curve("call")
    before = sum(n * (p * n + 0.5) / (n + 1) for p, n in rows)
    assert sum(n * p for (_, p), (_, n) in zip(curve.points, rows, strict=True)) == pytest.approx(before)


def test_what_is_left_over_is_spent_where_it_does_no_harm() -> None:
    """As far as success stays the same and the average use allows, and no further."""
    flat = Curve("c", ((0, 0.1), (64, 0.9), (128, 0.9), (256, 0.9), (512, 0.7)))
    assert flat.extend_limit(64, 1000) == 256
    assert flat.extend_limit(64, 100) == 128
    assert flat.extend_limit(64, 10) == 64
    assert prior("c", 64).extend_limit(64, 10) == 74
    harmed = Curve("d", ((0, 0.6), (16, 0.6), (32, 0.5)))
    assert harmed.extend_limit(0, 1000) == 0  # best without thinking: no tokens for nothing


RIGHT = {"call": [[0, 70, 81, 90], [64, 25, 34, 51], [None, 25, 53, 70]]}


def test_how_long_right_solutions_are() -> None:
    """Their share within a limit rises with the limit, and is between its neighbours' between two t."""
    data = {**FILE, "kinds": {"call": [[0, 0.5, 100], [64, 0.9, 100], [None, 0.95, 100]]}}
    curve = parse({**data, "right_solutions": RIGHT}).curve("call")
    assert curve.fit_probability(0, 70) == pytest.approx(0.5)
    assert curve.fit_probability(0, 81) == pytest.approx(0.9)
    assert curve.fit_probability(64, 51) == pytest.approx(0.99)
    assert curve.fit_probability(0, 60) < curve.fit_probability(32, 60) < curve.fit_probability(64, 60)
    assert [curve.fit_probability(40, s) for s in (20, 40, 60, 200)] == sorted(
        curve.fit_probability(40, s) for s in (20, 40, 60, 200)
    )
    assert curve.right_solution_lengths(0).size(0.9) == pytest.approx(81)
    assert curve.right_solution_lengths(10).size(0.5) == pytest.approx(70)
    assert parse(data).curve("call").fit_probability(0, 1) == 1.0
    other = parse({**data, "right_solutions": RIGHT}).curve("nobody measured it")
    assert other.right_solution_lengths(0).size(0.9) == pytest.approx(81)


@given(st.floats(0.01, 0.999), st.floats(1, 300), st.floats(1, 3), st.floats(1, 3))
def test_a_size_holds_its_share(share: float, p50: float, more: float, still: float) -> None:
    """`size` and `longer` are each other's inverse."""
    lengths = Lengths.of(p50, p50 * more, p50 * more * still)
    assert 1 - lengths.longer(lengths.size(share)) == pytest.approx(share, abs=1e-6) or (
        1 - lengths.longer(lengths.size(share)) >= share
    )


@pytest.mark.parametrize("row", [[0, 1, 2], [0, "a", 2, 3], "x", [0, -1, 2, 3]])
def test_bad_lengths_of_right_solutions_say_where(row: Any) -> None:
    """The key and the row are named."""
    with pytest.raises(CurveFileError, match="right_solutions"):
        parse({**FILE, "right_solutions": {"steps-2": [row]}})
