"""Regret: what was granted against the best split in hindsight, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler import BudgetScheduler, FixedCap, Marginal, Price
from elastic_agent.scheduler.analysis.regret import Lost, Regret, regrets
from elastic_agent.scheduler.analysis.replay import replay
from elastic_agent.scheduler.estimates.success_curve import Curve, CurveSet
from tests.clock import run

STEEP, FLAT = Curve("steep", ((0, 0.1), (100, 0.9))), Curve("flat", ((0, 0.5), (100, 0.6)))
CURVES = CurveSet("scripted", {"steep": STEEP, "flat": FLAT}, 5)


def regret_of(path: Path, caps: Caps, kinds: list[str], **options: Any) -> list[Regret]:
    """A task whose calls think and write all that they are given: a close and five tokens each."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm " * 500, "so " * 50), tpot=0.001)
        async with (
            BudgetScheduler(backend, curves=CURVES, log=path, **options) as scheduler,
            scheduler.task(caps, name="job", final_solution=5, on_exhausted="raise") as task,
        ):
            for kind in kinds:
                call = task.call("go", kind=kind)
                try:
                    await call.run()
                except CapExceededError:
                    continue
                call.feedback(correct=kind == "flat")

    run(main())
    return regrets(replay(path))


def test_a_fixed_cap_that_wastes_half_on_a_flat_curve(tmp_path: Path) -> None:
    """50 tokens each: .5 x .55. Of the 118 beside answers, hindsight gives 100 to the steep one: .9 x .5."""
    (found,) = regret_of(tmp_path / "run.jsonl", Caps(tokens=130), ["steep", "flat"], policy=FixedCap(50))
    assert (found.task, found.calls, found.refused, found.guessed) == ("job", 2, 0, 0)
    assert (found.unit, found.cap, found.spent) == ("tokens", 130, 112)
    assert found.chance == pytest.approx(0.5 * 0.55)
    assert found.best_chance == pytest.approx(0.9 * 0.5)
    assert found.bound >= found.best_chance
    assert found.right == pytest.approx(1.05)
    assert found.best_right == pytest.approx(1.4)
    assert (found.judged, found.judged_correct) == (2, 1)
    assert found.lost == Lost("job", 1, "steep", 50, 100)


def test_nothing_is_lost_where_the_best_was_granted(tmp_path: Path) -> None:
    """All that helps fits."""
    (found,) = regret_of(tmp_path / "run.jsonl", Caps(tokens=400), ["steep", "flat"], policy=FixedCap(100))
    assert found.chance == found.best_chance == pytest.approx(0.54)
    assert found.lost is None


def test_money_is_split_like_tokens(tmp_path: Path) -> None:
    """The same where a dollar is what binds: a thinking token is sampled once and read once more."""
    path, price = tmp_path / "run.jsonl", Price("1", "1")
    (found,) = regret_of(path, Caps(usd="0.000270"), ["steep", "flat"], price=price, policy=FixedCap(50))
    assert (found.unit, found.cap) == ("usd", 0.00027)
    assert found.chance == pytest.approx(0.5 * 0.55)
    assert found.best_chance == pytest.approx(0.9 * 0.5)


def test_a_large_cap_is_split_in_larger_pieces(tmp_path: Path) -> None:
    """A million tokens and a few calls take no longer, and are no more than the relaxation allows."""
    (found,) = regret_of(tmp_path / "run.jsonl", Caps(tokens=10**7), ["steep", "flat"] * 3)
    assert found.chance == pytest.approx(found.best_chance) == pytest.approx(found.bound)


def test_where_there_is_nothing_to_compare_it_says_so(tmp_path: Path) -> None:
    """Time alone can't be split; a task without calls has none; refused calls are counted and left out."""
    path = tmp_path / "run.jsonl"
    (found,) = regret_of(path, Caps(seconds=60), ["steep"])
    assert found.unit is None
    assert "no cap on tokens or money" in found.why_not
    (found,) = regret_of(path, Caps(tokens=60), [])
    assert found.why_not == "no call was sent"
    (found,) = regret_of(path, Caps(tokens=70), ["steep"] * 3, policy=FixedCap(50))
    assert (found.calls, found.refused) == (2, 1)
    (found,) = regret_of(path, Caps(tokens=90), ["other"], policy=Marginal("each"))
    assert found.guessed == 0  # the average of the measured ones
