"""Policies: pure functions, within their limits, and the default against brute force."""

from __future__ import annotations

import math
from itertools import pairwise, product

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from benchmarks._baselines import (
    Decay,
    GreedyUpfront,
    Guessed,
    MarginalGreedy,
    Myopic,
    Proportional,
    Schedule,
)
from elastic_agent.scheduler.estimates.lengths import Lengths
from elastic_agent.scheduler.estimates.success_curve import Curve, Objective, prior
from elastic_agent.scheduler.policies.marginal import Marginal, margin, segments
from elastic_agent.scheduler.policies.protocol import AllocationPolicy, Need, State
from elastic_agent.scheduler.policies.simple import FixedCap, Uniform

EASY = Curve("easy", ((0, 0.77), (16, 0.92), (64, 0.93)))
HARD = Curve("hard", ((0, 0.05), (32, 0.2), (64, 0.74), (128, 0.9)))
STEP = Curve("step", ((0, 0.3), (31, 0.3), (32, 0.9)))  # the gain comes all at once

LONG = Curve("long", HARD.points, Lengths.of(100, 180, 300))
SHORT = Curve("short", EASY.points, Lengths.of(20, 30, 50))
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear", "polynomial", "exponential", "cosine")

POLICIES: list[AllocationPolicy] = [
    FixedCap(100),
    Uniform(),
    Marginal(),
    Marginal("each"),
    Proportional(),
    GreedyUpfront(),
    Myopic(),
    MarginalGreedy(),
    Guessed((("easy", 10.0), ("hard", 80.0))),
    *(Decay(schedule, 0.7) for schedule in SCHEDULES),
]
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
def test_the_default_overdraws_the_room_by_chance_alone(
    curve: Curve, others: list[Need], room: float
) -> None:
    """What a chain's call is expected to use is at most what there is, and six spreads of what all may use;
    an independent call's at most what there is.
    """
    state = State(Need(curve), tuple(others), room, 10**6)
    spread = math.sqrt(sum(need.calls * need.curve.variance for need in (state.this, *others)))
    assert curve.used(Marginal().choose(state).thinking) <= room + 6 * spread + 1
    assert curve.used(Marginal("each").choose(state).thinking) <= room + 1


def walked(objective: Objective, state: State) -> tuple[int, float]:
    """The ideal thinking and the price, from the first segment on, one after another, as it is defined."""
    curve = state.this.curve
    spread = math.sqrt(sum(need.calls * need.curve.variance for need in (state.this, *state.others)))
    at, given = curve.envelopes[objective][0], 0.0
    for segment in segments(objective, state.this, state.others):
        left = state.room - (margin(segment.slope, spread) if objective == "chain" else 0.0) - given
        if left > 0 and segment.mine and segment.use * (1 + segment.rivals) > left:
            return Marginal(objective)._part(curve, at, segment, left).thinking, segment.slope
        if left > 0:
            at = segment.end if segment.mine else at
            given += segment.use * segment.calls
            left -= segment.use * segment.calls
        if left <= 0:
            return at.thinking, segment.slope
    return at.thinking, 0.0


@pytest.mark.parametrize("objective", ["chain", "each"])
@given(needs, st.lists(needs, max_size=4), st.one_of(st.floats(1, 4000), st.integers(1, 4000)))
def test_the_walk_may_begin_where_the_room_ends(
    objective: Objective, this: Need, others: list[Need], room: float
) -> None:
    """All that is worked out beforehand changes nothing: not a token, not the price."""
    assume(this.curve.measured)
    state = State(this, tuple(others), room, 10**6)
    numbers = Marginal(objective).choose(state).numbers
    assert (numbers["ideal"], numbers["token_price"]) == walked(objective, state)


def test_what_is_kept_depends_on_what_a_token_gains() -> None:
    """phi(z) / Phi(z) = slope * spread: at z = 0 that is sqrt(2 / pi). No spread, nothing kept."""
    assert margin(math.sqrt(2 / math.pi) / 50, 50) == pytest.approx(0, abs=0.5)
    assert margin(0.001, 50) > 50  # little to gain: more than one spread is kept
    assert margin(0.05, 50) < -50  # nothing works without it: it is risked
    assert margin(0.05, 0) == 0


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


def test_proportional_goes_by_natural_lengths() -> None:
    """A kind that thinks longer gets the larger share; kinds that nobody measured share evenly."""
    long = Proportional().choose(State(Need(LONG), (Need(SHORT),), 200, 1000)).thinking
    short = Proportional().choose(State(Need(SHORT), (Need(LONG),), 200, 1000)).thinking
    assert long > 3 * short
    assert 198 <= long + short <= 200
    assert Proportional().choose(State(Need(HARD), (Need(EASY, 3),), 200, 1000)).thinking == 50


def test_greedy_takes_what_it_can_use() -> None:
    """Up to the room, its best point and its own limit, whatever is to come."""
    later = (Need(HARD, 9),)
    assert GreedyUpfront().choose(State(Need(HARD), later, 100, 1000)).thinking == 100
    assert GreedyUpfront().choose(State(Need(HARD), later, 500, 1000)).thinking == 128
    assert GreedyUpfront(64).choose(State(Need(HARD), later, 500, 1000)).thinking == 64


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_decay_hands_out_the_room_by_weight(schedule: Schedule) -> None:
    """Earlier calls get no less than later ones, and together they get the room; constant is uniform."""
    policy, left, got = Decay(schedule, 0.7), 1000.0, []
    for made in range(5):
        later = (Need(HARD, 4 - made),) if made < 4 else ()
        got.append(policy.choose(State(Need(HARD), later, left, 10**6, made)).thinking)
        left -= got[-1]
    assert got == pytest.approx(sorted(got, reverse=True), abs=1)
    assert sum(got) == 1000
    assert (got[0] - got[-1] <= 1) == (schedule == "constant")


def test_decay_by_hand() -> None:
    """Two calls, exponential at rate 2: weights 1 and exp(-1)."""
    first = Decay("exponential", 2.0).choose(State(Need(HARD), (Need(HARD),), 1000, 10**6, 0)).thinking
    assert first == int(1000 / (1 + math.exp(-1)))


def test_marginal_greedy_sees_the_next_portion_alone() -> None:
    """A gain that comes all at once lies beyond its portion; larger portions reach it."""
    for portion, expected in ((8, 0), (32, 32)):
        state = State(Need(STEP), (), 100, 10**6, 0)
        assert MarginalGreedy(portion).choose(state).thinking == expected
    mixed = State(Need(HARD), (Need(EASY, 3),), 64, 10**6, 0)
    assert MarginalGreedy(16).choose(mixed).thinking == 16  # the easy ones gained more by the first 3 x 16


def test_guessed_fills_by_guesses_alone() -> None:
    """Whoever is said to need more gets more, all of the room is given, and measured curves count nothing."""
    policy = Guessed((("easy", 20.0), ("hard", 80.0)))
    easy, hard = (
        policy.choose(State(Need(one), (Need(other),), 100, 10**6, 0)).thinking
        for one, other in ((EASY, HARD), (HARD, EASY))
    )
    assert easy < hard
    assert 97 <= easy + hard <= 100
    same = Curve("easy", HARD.points)
    assert policy.choose(State(Need(same), (Need(HARD),), 100, 10**6, 0)).thinking == easy


def test_myopic_looks_at_itself_alone() -> None:
    """It goes on while a token gains its price; who is to come changes nothing."""
    cheap, dear = Myopic(0.002), Myopic(0.009)
    for others in ((), (Need(HARD, 30),)):
        assert cheap.choose(State(Need(HARD), others, 500, 1000)).thinking == 128
        assert dear.choose(State(Need(HARD), others, 500, 1000)).thinking == 64
    assert dear.choose(State(Need(EASY), (), 500, 1000)).thinking == 16
