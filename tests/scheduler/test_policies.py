"""Policies: pure functions, within their limits, and the default against brute force."""

from __future__ import annotations

import math
from itertools import pairwise, product

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elastic_agent.scheduler.curves import Curve, Lengths, prior
from elastic_agent.scheduler.policies import AllocationPolicy, FixedCap, Marginal, Need, State, Uniform

EASY = Curve("easy", ((0, 0.77), (16, 0.92), (64, 0.93)))
HARD = Curve("hard", ((0, 0.05), (32, 0.2), (64, 0.74), (128, 0.9)))
STEP = Curve("step", ((0, 0.3), (31, 0.3), (32, 0.9)))  # the gain comes all at once

POLICIES: list[AllocationPolicy] = [FixedCap(100), Uniform(), Marginal(), Marginal("each")]
curves = st.sampled_from([EASY, HARD, STEP, prior("x", 64), Curve("l", HARD.points, Lengths.of(40, 80, 120))])
needs = st.builds(Need, curves, st.integers(1, 40), st.floats(0.1, 10))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(curves, st.lists(needs, max_size=4), st.floats(-1000, 1e6), st.integers(0, 5000))
def test_within_the_limits(
    policy: AllocationPolicy, curve: Curve, others: list[Need], room: float, most: int
) -> None:
    """0 to `most`, whatever the state; the same state gives the same choice; it says why."""
    state = State(Need(curve), tuple(others), room, most)
    choice = policy.choose(state)
    assert 0 <= choice.thinking <= most
    assert choice == policy.choose(state)
    assert choice.why


@given(curves, st.lists(needs, max_size=4), st.floats(0, 4000))
def test_the_default_never_plans_over_the_room(curve: Curve, others: list[Need], room: float) -> None:
    """What this call is expected to use is at most what there is."""
    choice = Marginal().choose(State(Need(curve), tuple(others), room, 10**6))
    assert curve.used(choice.thinking) <= room + 1


@given(st.lists(st.sampled_from([EASY, HARD, STEP]), min_size=2, max_size=4), st.integers(0, 400))
def test_a_chain_planned_call_by_call_is_near_the_best_split(chain: list[Curve], room: int) -> None:
    """Replaying the policy over a known chain loses at most one call's segment against brute force."""
    grid = [0, 16, 32, 64, 128]
    best = max(
        math.fsum(math.log(c.p(t)) for c, t in zip(chain, split, strict=True))
        for split in product(grid, repeat=len(chain))
        if sum(split) <= room
    )
    left, got = float(room), 0.0
    for i, curve in enumerate(chain):
        others = tuple(Need(c) for c in chain[i + 1 :])
        t = Marginal().choose(State(Need(curve), others, left, 10**6)).thinking
        left -= t
        got += math.log(curve.p(t))
    assert left >= 0
    worst_item = max(b.worth - a.worth for c in chain for a, b in pairwise(c.envelopes["chain"]))
    assert got >= best - worst_item - 1e-9


def test_tokens_go_where_they_gain_most() -> None:
    """An easy call leaves its thinking to the hard ones to come, and the other way round."""
    easy = Marginal().choose(State(Need(EASY), (Need(HARD, 3),), 200, 1000))
    hard = Marginal().choose(State(Need(HARD), (Need(EASY, 3),), 200, 1000))
    assert easy.thinking <= 16
    assert hard.thinking >= 128


def test_equals_share_evenly_where_the_curve_allows() -> None:
    """Ten calls alike and room for a part of the first segment of each: a tenth of it."""
    choice = Marginal().choose(State(Need(prior("x", 256)), (Need(prior("x", 256), 9),), 500, 10**6))
    assert 45 <= choice.thinking <= 50


def test_a_gain_that_comes_all_at_once_is_not_split() -> None:
    """Ten calls that need 32 each and room for two: this one gets its 32."""
    assert Marginal().choose(State(Need(STEP), (Need(STEP, 9),), 64, 1000)).thinking == 32
    assert Marginal().choose(State(Need(STEP), (Need(STEP, 9),), 20, 1000)).thinking == 0


def test_weights_pull() -> None:
    """A call that counts more gets more."""
    heavy = Marginal().choose(State(Need(HARD, weight=5), (Need(HARD),), 64, 1000)).thinking
    light = Marginal().choose(State(Need(HARD, weight=0.2), (Need(HARD),), 64, 1000)).thinking
    assert heavy > light


def test_the_objective_matters_for_hopeless_calls() -> None:
    """.01 to .05 multiplies a chain's chance; counted one by one it is worth little."""
    hopeless, good = Curve("h", ((0, 0.01), (64, 0.05))), Curve("g", ((0, 0.3), (64, 0.6)))
    state = State(Need(hopeless), (Need(good),), 64, 1000)
    assert Marginal("chain").choose(state).thinking == 64
    assert Marginal("each").choose(state).thinking == 0


def test_uniform_and_fixed() -> None:
    """Today's practices, to compare with."""
    state = State(Need(HARD), (Need(HARD, 3),), 400, 60)
    assert Uniform().choose(state).thinking == 60
    assert Uniform().choose(State(Need(HARD), (Need(HARD, 3),), 100, 60)).thinking == 25
    assert FixedCap(48).choose(state).thinking == 48
