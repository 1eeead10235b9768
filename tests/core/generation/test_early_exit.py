"""Thinking ends when the answer no longer changes: probed, counted, held, and given back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Budget, Caps, ScriptedBackend
from elastic_agent.backends.base import GREEDY, TokenRequest
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import InvalidBudgetError
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.generation.result import Generation
from elastic_agent.scheduler import BudgetScheduler, Price
from elastic_agent.scheduler.analysis.replay import replay
from elastic_agent.scheduler.estimates.success_curve import Curve, CurveSet
from tests.clock import run
from tests.core.generation.saying import Saying

EXIT = EarlyExit(every=20, patience=2, tokens=8)
KNOWS = Reply("hm " * 200, "the answer is 42", needs=30, otherwise="maybe 7")
SURE = CurveSet("scripted", {"call": Curve("call", ((0, 0.1), (400, 0.9)))}, 32)


async def ask(reply: Any, budget: Budget, exit: EarlyExit = EXIT, **how: Any) -> tuple[Generation, Any]:
    backend = ScriptedBackend(reply, **how)
    return await generate(backend, "q", budget, early_exit=exit), backend


def test_it_stops_when_two_probes_agree() -> None:
    """At 20 it says another thing, at 40 and 60 the same."""
    result, backend = run(ask(KNOWS, Budget(150, 16)))
    assert result.thinking_end is ThinkingEnd.STABLE
    assert result.usage.thinking == 60
    assert result.solution == "the answer is 42"
    assert result.usage.passes == 3 + 3 + 1
    assert result.usage.discarded == 3 + 5 + 5  # "maybe 7" and its end, the answer and its end, twice
    assert backend.meter.output == result.usage.metered_output
    assert backend.meter.input == result.usage.metered_input


@pytest.mark.parametrize("solution", [8, 16])
def test_an_answer_that_changes_ends_nothing(solution: int) -> None:
    """And what it used is the bound, to the token, where each probe is as long as it may be."""
    turns = iter(range(1000))
    backend = ScriptedBackend(lambda _: Reply("hm " * 500, f"{next(turns)} " * 20, closes=False))
    result = run(generate(backend, "q", Budget(100, solution), early_exit=EXIT))
    probes = EXIT.probes(backend.codec)
    assert result.thinking_end is ThinkingEnd.BUDGET
    assert result.usage.thinking == 100
    assert result.usage.discarded == probes.generated(100) == 4 * 8
    prompt = result.usage.prompt
    assert result.usage.input == 2 * prompt + 100 + 1 + probes.read(prompt, 100, 1)


def test_none_is_no_answer_and_too_small_a_solution_is_no_probe() -> None:
    """Five probes without an answer agree on nothing."""
    silent = EarlyExit(every=20, patience=2, tokens=8, read=lambda text: None)
    result, _ = run(ask(KNOWS, Budget(110, 16), silent))
    assert result.thinking_end is ThinkingEnd.BUDGET
    assert result.usage.passes == 5 + 6 + 1
    result, _ = run(ask(KNOWS, Budget(110, 7)))
    assert result.usage.passes == 2


def test_the_lead_is_read_after_the_close() -> None:
    """So that the answer comes at once."""
    seen: list[TokenRequest] = []

    class Watched(ScriptedBackend):
        def stream(self, request: TokenRequest) -> Any:
            seen.append(request)
            return super().stream(request)

    backend = Watched(KNOWS)
    led = EarlyExit(every=20, patience=2, tokens=8, lead="so it is")
    run(generate(backend, "q", Budget(50, 16), early_exit=led))
    probe = seen[1]
    assert backend.codec.decode(probe.prompt_ids).endswith("so it is")
    assert probe.max_tokens == 8
    assert probe.sampling == GREEDY
    assert led.probes(backend.codec).lead == 3


@pytest.mark.parametrize("wrong", [{"every": 15}, {"patience": 1}, {"tokens": 0}])
def test_numbers_that_make_no_sense(wrong: dict[str, int]) -> None:
    """With the name and the least."""
    with pytest.raises(InvalidBudgetError, match=f"{next(iter(wrong))} must be at least"):
        EarlyExit(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("caps", "price"),
    [(Caps(tokens=300), None), (Caps(usd="0.001"), Price("0.1", "2"))],
    ids=["tokens", "usd"],
)
@pytest.mark.parametrize("changing", [False, True])
def test_a_task_holds_what_probes_may_cost(
    caps: Caps, price: Price | None, changing: bool, tmp_path: Path
) -> None:
    """Under a cap that binds: never over, all of the rest comes back; and the run replays."""
    path, turns = tmp_path / "run.jsonl", iter(range(1000))
    reply = (lambda _: Reply("hm " * 900, f"{next(turns)} " * 20)) if changing else KNOWS

    async def main() -> None:
        backend = ScriptedBackend(reply)
        async with BudgetScheduler(backend, curves=SURE, price=price, log=path) as scheduler:
            async with scheduler.task(caps, expect={"call": 0}, final_solution=16) as task:
                call = task.call("q", solution=16, early_exit=EXIT)
                await call.run()
                assert call.grant is not None
                assert call.grant.budget.thinking is not None
                assert call.grant.budget.thinking > 60
                assert call.usage.generated <= call.grant.held.tokens
                if price is not None:
                    assert price.charge(call.usage) <= call.grant.held.nano
                ended = ThinkingEnd.BUDGET if changing else ThinkingEnd.STABLE
                assert call.result().thinking_end is ended
                assert task.state.account.held == task.state.account.reserve
                scheduler.check()
            assert backend.meter.output == call.usage.metered_output

    run(main())
    found = replay(path)
    assert found.difference is None, found.difference


@pytest.mark.parametrize("seconds", [0.5, 0.74, 0.9, 1.3])
def test_a_deadline_in_a_probe_ends_thinking(seconds: float) -> None:
    """The answer is whole and in time, wherever the deadline falls."""

    async def main() -> None:
        backend = ScriptedBackend(KNOWS, ttft=0.05, tpot=0.01)
        async with (
            BudgetScheduler(backend) as scheduler,
            scheduler.task(Caps(seconds=seconds), final_solution=16) as task,
        ):
            call = task.call("q", solution=16, final=True, early_exit=EXIT)
            await call.run()
            assert call.result().solution in ("the answer is 42", "maybe 7")
            assert task.left.seconds is not None
            assert task.left.seconds >= 0
            assert backend.meter.output <= call.usage.metered_output

    run(main())


@pytest.mark.parametrize("after", [0.05, 0.29, 0.33, 0.6])
def test_a_caller_that_goes_away_pays_for_what_was_served(after: float) -> None:
    """In a thinking pass or in a probe: nothing stays held, nothing runs on."""

    async def main() -> None:
        backend = ScriptedBackend(KNOWS, ttft=0.05, tpot=0.01)
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=500)) as task:
            call = task.call("q", solution=16, early_exit=EXIT)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call.run(), after)
            assert backend.running == 0
            assert backend.meter.output == call.usage.metered_output
            assert task.state.account.held == task.state.account.reserve
            scheduler.check()

    run(main())


def test_a_probe_that_thinks_again_is_no_answer() -> None:
    """C 13: the same doubts, probed twice, are not an answer that no longer changes."""
    backend = Saying(Reply("hm " * 200, "<think> oh wait let me see that again and"))
    result = run(generate(backend, "q", Budget(150, 16), early_exit=EXIT))
    assert result.thinking_end is ThinkingEnd.BUDGET
