"""The allocation benchmark: its replay keeps the cap, is the same each time, and agrees with what it
claims.
"""

from __future__ import annotations

import pytest

from benchmarks._baselines import Informed
from benchmarks._replay import Memory, curves_of, load, make_work, play, play_plain, pool_of, table_of
from elastic_agent.scheduler.estimates.curve_files import load as load_curves
from elastic_agent.scheduler.estimates.online_curves import LearntCurves
from elastic_agent.scheduler.policies.marginal import Marginal
from elastic_agent.scheduler.policies.simple import FixedCap

OUTCOMES = load()
WORK = make_work(pool_of(OUTCOMES), 10, seed=9)


@pytest.mark.parametrize("each", [24, 60, 110, 400])
def test_the_meter_stays_within_the_cap(each: int) -> None:
    """Whatever the policy and the curves; `play` itself holds the books against the meter."""
    learnt = LearntCurves()
    for policy, curves in (
        (Marginal(), load_curves("e1-tiny")),
        (Marginal(), learnt),
        (FixedCap(128), learnt),
    ):
        for work in WORK:
            cap = each * len(work.calls)
            assert play(work, cap, policy, Memory.of(curves)).metered <= cap
            assert play_plain(work, cap, 64).metered <= cap


def test_a_replay_is_the_same_each_time() -> None:
    """Nothing in it is left to chance but the seed."""
    memory = Memory.of(load_curves("e1-tiny"))
    first, second = (play(WORK[1], 500, Marginal(), Memory.of(memory.curves)) for _ in range(2))
    assert first == second
    assert make_work(pool_of(OUTCOMES), 10, seed=9) == WORK


def test_known_agents_are_learnt_from_the_stream() -> None:
    """Chains and branches apart, from whole runs only, in the order of their calls; no cap is broken."""
    memory = Memory.of(load_curves("e1-tiny"))
    for work in WORK:
        cap = 150 * len(work.calls)
        assert play(work, cap, Marginal(), memory, declare=False, agents=True).metered <= cap
    whole = [sorted(call.kind for call in work.calls) for work in WORK]
    runs = {agent: [sorted(run) for run in history.runs] for agent, history in memory.agents.items()}
    assert set(runs) == {"chain", "branches"}
    assert runs["chain"] == whole[::2]
    assert runs["branches"] == whole[1::2]
    play(WORK[0], 500, Marginal(), silent := Memory.of(memory.curves), declare=False)
    assert not silent.agents


def test_with_tokens_to_spare_a_task_is_as_right_as_its_calls_uncut() -> None:
    """No policy, only outcomes: FixedCap beyond every length."""
    for work in WORK:
        played = play(work, 5000, FixedCap(512), Memory.of(load_curves("e1-tiny")))
        assert played.right == tuple(call.right[-1] for call in work.calls)


def test_the_bounds_are_bounds() -> None:
    """Informed is at most what the clairvoyant reaches on average, and rises with the cap."""
    kinds, close = ["steps-2", "steps-4", "steps-3"], OUTCOMES[0].sizes.close
    for objective in ("chain", "each"):
        best = Informed(table_of(OUTCOMES), close, objective)
        worth = [best.worth(kinds, cap) for cap in (400, 300, 200, 100)]
        assert worth == sorted(worth, reverse=True)
        assert 0 <= worth[-1] < worth[0] <= 1


def test_the_best_share_by_hand() -> None:
    """Two calls that need 10 tokens of thinking, one of close and two of solution, half of them in vain."""
    outcomes = {"a": [(0, [(1, 2, False)]), (10, [(11, 2, True), (11, 2, False)])]}
    for cap, share in ((26, 0.5), (25, 0.25), (13, 0.25), (12, 0.0)):
        assert Informed(outcomes, 1, "each").worth(["a", "a"], cap) == share
    for cap, chance in ((26, 0.25), (25, 0.0)):
        assert Informed(outcomes, 1).worth(["a", "a"], cap) == chance


def test_curves_from_outcomes_are_the_outcomes_shares() -> None:
    """As smoothed as any measured curve, with the lengths of thinking; the replay goes on with them."""
    curves = curves_of(OUTCOMES, "mine")
    rows = pool_of(OUTCOMES)["steps-4"]
    shares = [sum(one.at(t)[1] for one in rows) / len(rows) for t in (0, 64)]
    curve = curves.curve("steps-4")
    for t, share in zip((0, 64), shares, strict=True):
        assert abs(curve.p(t) - share) < 0.02
    played = play(WORK[0], 400, Marginal(), Memory.of(curves))
    assert played.metered <= 400
    assert played.held >= played.metered
