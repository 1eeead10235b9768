"""Hindsight against brute force, the bound above it, and the informed optimum against a policy tree."""

from __future__ import annotations

import math
from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import given

from benchmarks._baselines import Informed
from elastic_agent.scheduler.analysis.hindsight import Option, best_split, lp_bound

options = st.lists(
    st.builds(Option, st.integers(0, 30), st.sampled_from([0.0, 0.3, 0.5, 1.0, -math.inf])),
    min_size=1,
    max_size=4,
)


@given(st.lists(options, max_size=4), st.integers(-5, 90))
def test_the_best_split_is_that_of_brute_force(calls: list[list[Option]], cap: int) -> None:
    """The same worth, by a split that is within the cap; minus infinity where nothing is possible."""
    worths = [
        math.fsum(option.worth for option in split)
        for split in product(*calls)
        if sum(option.tokens for option in split) <= cap
    ]
    split = best_split(calls, cap)
    best = max(worths, default=-math.inf)
    assert split.worth == pytest.approx(best)
    if best > -math.inf:
        taken = [calls[i][which] for i, which in enumerate(split.taken)]
        assert sum(option.tokens for option in taken) <= cap
        assert math.fsum(option.worth for option in taken) == pytest.approx(best)
    assert lp_bound(calls, cap) >= best - 1e-9


def test_the_bound_takes_parts() -> None:
    """Two calls that gain 1 with 10 tokens each, and 15 tokens: one and a half."""
    call = [Option(0, 0.0), Option(10, 1.0)]
    assert best_split([call, call], 15).worth == 1
    assert lp_bound([call, call], 15) == pytest.approx(1.5)


def test_informed_by_hand() -> None:
    """One kind: at t=0 right half of the time for 5 tokens of solution; at t=10 always, using 4 or 10 and 5.

    With 16 for one call it thinks. With 27 for two: the first thinks (hold 16); where it used 4 the second
    has 17 and thinks too, else it has 11 and must not: (1 + 1/2) / 2. Not thinking first brings at most 1/2.
    """
    known = {"a": [(0, [(1, 5, True), (1, 5, False)]), (10, [(5, 5, True), (11, 5, True)])]}
    best = Informed(known, close=1)
    assert best.worth(["a"], 16) == 1.0
    assert best.worth(["a"], 15) == 0.5
    assert best.worth(["a"], 5) == 0.0
    assert best.worth(["a", "a"], 27) == pytest.approx(0.75)
    assert best.worth(["a", "a"], 32) == 1.0
    assert best.worth([], 0) == 1.0
