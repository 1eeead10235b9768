"""Learnt curves: censored lengths by hand, what is assumed of the new, and what users tell."""

from __future__ import annotations

import random

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.estimates.online_curves import KNOWN, LearntCurves, kaplan_meier
from elastic_agent.scheduler.estimates.success_curve import prior
from tests.clock import run


def test_kaplan_meier_by_hand() -> None:
    """Ends at 6 (3 of them), 7, 10; cut at 6, 9, 10: Freireich's first rows, 8 at risk.

    S(6) = 5/8; at 7 there are 4 at risk: 5/8 * 3/4; at 9 one is cut; at 10 two are at risk, one ends: half
    of it.
    """
    seen = [(6, False), (6, False), (6, False), (6, True), (7, False), (9, True), (10, False), (10, True)]
    knots = dict(kaplan_meier(seen).knots)
    assert knots[6] == pytest.approx(5 / 8)
    assert knots[7] == pytest.approx(15 / 32)
    assert knots[9] == pytest.approx(15 / 32)
    assert knots[10] == pytest.approx(15 / 64)


def test_cut_lengths_do_not_count_as_ends() -> None:
    """Half of the calls are cut at 50: the estimate stays that of the uncut lengths."""
    rng = random.Random(1)
    lengths = [round(rng.expovariate(1 / 80)) for _ in range(4000)]
    seen = [(min(n, 50), n > 50) if i % 2 else (n, False) for i, n in enumerate(lengths)]
    estimate = kaplan_meier(seen)
    for limit in (30, 100, 200):
        truth = sum(min(n, limit) for n in lengths) / len(lengths)
        assert estimate.used(limit) == pytest.approx(truth, rel=0.06)
    naive = sum(n for n, _ in seen) / len(seen)
    assert naive < 0.9 * sum(lengths) / len(lengths)


def test_what_nobody_saw_is_guessed() -> None:
    """Nothing is known: the prior. Beyond the longest cut the imagined calls go on thinking."""
    assert LearntCurves("m").curve("x") == prior("x", 64.0)
    assert kaplan_meier([(20, True)] * 50, imagined=2, scale=64).used(500) > 40


def test_a_new_kind_is_like_the_others() -> None:
    """Until it has calls enough of its own."""
    curves = LearntCurves()
    for _ in range(KNOWN):
        curves.record_call("a", 100, 30, cut=False, solution=20)
    assert curves.curve("b").points == curves.curve("a").points
    for _ in range(KNOWN):
        curves.record_call("b", 100, 100, cut=True, solution=60)
    assert curves.curve("b").p(64) < curves.curve("a").p(64)


def test_without_feedback_finishing_stands_for_success() -> None:
    """Longer limits let more calls finish, so the curve rises; solutions are learnt, too."""
    rng, curves = random.Random(2), LearntCurves()
    for _ in range(300):
        limit, natural = rng.choice((0, 16, 32, 64, 128, 256)), rng.randint(20, 120)
        curves.record_call("a", limit, min(limit, natural), natural > limit, 70 if natural > limit else 30)
    curve = curves.curve("a")
    assert curve.p(0) < 0.1
    assert curve.p(128) > 0.85
    assert curve.solution_at(0) == pytest.approx(70, abs=2)
    assert curve.solution_at(256) == pytest.approx(30, abs=2)


def test_feedback_counts_more_than_the_proxy() -> None:
    """A kind that is right without thinking is known as such once somebody says so."""
    curves = LearntCurves()
    for _ in range(60):
        for limit in (0, 64):
            call = curves.record_call("a", limit, limit, cut=True, solution=30)
            curves.record_feedback("a", call, right=limit == 0)
    assert curves.curve("a").p(0) > 0.9
    assert curves.curve("a").p(64) < 0.3


def test_live_calls_teach_and_users_tell() -> None:
    """Every finished call of a scheduler is seen; `call.outcome` says whether it was right."""
    curves = LearntCurves()

    async def work() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 20, solution="so it is 42"))
        scheduler = BudgetScheduler(backend, curves=curves)
        async with scheduler, scheduler.task(Caps(tokens=5000)) as task:
            for _ in range(KNOWN):
                call = task.call("how many ?", kind="step", thinking=90, solution=24)
                await call.run()
                call.feedback(correct=False)

    run(work())
    learnt = curves.curve("step")
    assert learnt.measured
    assert learnt.p(90) < 0.4
    assert 15 < learnt.used(90) < 45
