"""A running call is lowered for one that nobody had foreseen: what it would get if it came now."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.scheduler import BudgetScheduler, FixedCap, LearntCurves
from elastic_agent.scheduler.analysis.replay import replay
from elastic_agent.scheduler.estimates.success_curve import Curve, CurveSet
from elastic_agent.scheduler.runtime.external_call import ExternalCall, ExternalModel
from elastic_agent.training.budgets.run_logs import parse_grants
from tests.clock import run

HARD = Curve("hard", ((0, 0.05), (40, 0.5), (80, 0.75), (200, 0.95)))
CURVES = CurveSet("scripted", {"hard": HARD}, 16)


async def two(
    log: Any, *, after: float, nested: bool = False, expect: int = 1, **how: Any
) -> tuple[Any, Any, Any]:
    """A call that may use the whole cap, and one that comes while it thinks."""
    backend = ScriptedBackend(lambda _: Reply("hm " * 180, "hard " * 8), tpot=0.01)
    how = {"curves": CURVES} | how
    async with (
        BudgetScheduler(backend, log=log, **how) as scheduler,
        scheduler.task(Caps(tokens=240), expect={"hard": expect}, final_solution=16) as task,
    ):

        async def second() -> Any:
            await asyncio.sleep(after)
            if not nested:
                call = task.call("the second", kind="hard", solution=16)
                await call.run()
                return call
            async with task.task(Caps(tokens=240), final_solution=16) as inner:
                call = inner.call("the second", kind="hard", solution=16)
                await call.run()
                return call

        first = task.call("the first", kind="hard", solution=16)
        _, other = await asyncio.gather(first.run(), second())
        scheduler.check()
        assert task.state.account.held == task.state.account.reserve
        assert backend.meter.output == first.usage.metered_output + other.usage.metered_output
    return first, other, task.report()


@pytest.mark.parametrize("nested", [False, True])
def test_the_later_one_gets_its_part(nested: bool) -> None:
    """Each thinks about as much as if both had come at once; the first's hold stays what it was."""
    events: list[dict[str, Any]] = []
    first, second, report = run(two(events.append, after=0.2, nested=nested))
    granted, lowered = (
        next(e for e in events if e["event"] == name and e["call"] == 1) for name in ("grant", "reduced")
    )
    assert granted["granted"]["thinking"] == first.grant.budget.thinking >= 180
    assert lowered["before"] == granted["granted"]["thinking"]
    assert lowered["hold"] == granted["hold"]
    assert "came and lacks tokens" in lowered["reason"]
    assert first.usage.thinking == lowered["granted"]["thinking"] < 150
    assert first.usage.passes == 2
    assert first.result().thinking_end is ThinkingEnd.BUDGET
    assert second.usage.thinking > 50
    assert second.usage.solution > 0
    assert f"lowered to {first.usage.thinking}" in str(report)
    budgets = parse_grants([json.dumps(e, default=str) for e in events], kinds=["hard"])
    assert [budget.thinking for _, budget in budgets] == [first.usage.thinking, second.grant.budget.thinking]


def test_without_it_the_later_one_would_starve() -> None:
    """`FixedCap` gives whoever comes the same, so nothing is lowered, and the second has what is left."""
    events: list[dict[str, Any]] = []
    first, second, _ = run(two(events.append, after=0.2, policy=FixedCap(200)))
    assert not [e for e in events if e["event"] == "reduced"]
    assert first.usage.thinking == 181  # the close that it wrote is one of them
    assert second.usage.thinking < 30


def test_what_was_thought_already_stays() -> None:
    """Past its new limit it is cut in that moment, not undone."""
    events: list[dict[str, Any]] = []
    first, _, _ = run(two(events.append, after=1.5))
    lowered = next(e for e in events if e["event"] == "reduced")
    assert first.result().thinking_end is ThinkingEnd.PREEMPTED
    assert lowered["granted"]["thinking"] < first.usage.thinking <= 152


def test_one_that_was_foreseen_lowers_nobody() -> None:
    """The first grant had it in view."""
    events: list[dict[str, Any]] = []
    run(two(events.append, after=0.2, expect=2))
    assert not [e for e in events if e["event"] == "reduced"]


def test_a_call_that_somebody_else_drives_keeps_what_it_has() -> None:
    """Nobody could tell it."""

    async def main() -> None:
        backend = ScriptedBackend(lambda _: Reply("hm " * 180, "hard " * 8), tpot=0.01)
        events: list[dict[str, Any]] = []
        async with (
            BudgetScheduler(backend, curves=CURVES, log=events.append) as scheduler,
            scheduler.task(Caps(tokens=240), final_solution=16) as task,
        ):
            model = ExternalModel("scripted")
            other = ExternalCall(task, model, prompt=5, thinking=200, solution=16, kind="hard")
            await other.acquire()
            await asyncio.sleep(0.1)
            call = task.call("the second", kind="hard", solution=16)
            running = asyncio.ensure_future(call.run())
            await asyncio.sleep(0.1)
            other.refund()
            await running
        assert not [e for e in events if e["event"] == "reduced"]

    run(main())


@pytest.mark.parametrize("after", [0.2, 1.5])
def test_it_replays(after: float, tmp_path: Path) -> None:
    """Line for line, and its limits are what the curves learn from."""
    path = tmp_path / "run.jsonl"
    run(two(path, after=after, curves=LearntCurves("scripted", scale=60)))
    found = replay(path)
    assert found.difference is None, found.difference
    assert any(event["event"] == "reduced" for event in found.events)
