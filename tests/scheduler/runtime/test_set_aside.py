"""A part of a task's caps that is held for something other than a call (laws 1, 2 and 9)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError, TaskClosedError
from elastic_agent.scheduler import BudgetScheduler, account, task_budget
from elastic_agent.scheduler.analysis.replay import replay
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores import open_store
from tests.clock import run


def test_a_part_is_held_then_charged_what_was_spent() -> None:
    """What is set aside is not left for calls; what was not spent comes back."""

    async def main() -> None:
        async with task_budget(tokens=300, usd=1) as task:
            left = task.left.tokens
            assert left is not None
            part = await task.set_aside(Amount(100, 5))
            task.scheduler.check()
            assert task.left.tokens == left - 100
            part.settle(Amount(30, 2))
            part.settle(Amount(90, 4))  # a second end changes nothing
            task.scheduler.check()
            assert (task.left.tokens, task.state.account.spent) == (left - 30, Amount(30, 2))

    run(main())


def test_no_more_than_is_left_is_set_aside() -> None:
    """Refused with the numbers, and the final answer's reserve is left alone; an ended task is refused."""

    async def main() -> None:
        async with task_budget(tokens=300, usd="0.5", final_solution=40) as task:
            with pytest.raises(CapExceededError, match="be set aside") as refused:
                await task.set_aside(Amount(270))
            assert refused.value.needed == {"tokens": 270}
            assert refused.value.available["tokens"] < 300 - 40
            with pytest.raises(CapExceededError) as refused:
                await task.set_aside(Amount(0, 700_000_000))
            assert (refused.value.needed, refused.value.available) == ({"usd": 0.7}, {"usd": 0.5})
        with pytest.raises(TaskClosedError):
            await task.set_aside(Amount(1))

    run(main())


def test_a_part_whose_task_ends_first_is_charged_whole() -> None:
    """Nobody knows what was spent of it."""

    async def main() -> None:
        async with task_budget(tokens=300) as task:
            part = await task.set_aside(Amount(100))
        assert task.spent.tokens == 100
        part.settle(Amount(1))
        assert task.spent.tokens == 100

    run(main())


async def test_a_store_is_charged_for_a_part(tmp_path: Path) -> None:
    """A scheduler with a store holds the part there, too: other processes can't spend it again."""
    where = tmp_path / "spend.db"
    scheduler = BudgetScheduler(store=where, accounts=[account("all", Caps(tokens=300))])
    async with scheduler, scheduler.task(Caps(tokens=300)) as task:
        part = await task.set_aside(Amount(100))
        other = open_store(where)
        assert (await other.read_accounts("all"))[0].held.tokens >= 100
        part.settle(Amount(30))
    assert (await other.read_accounts("all"))[0].spent.tokens == 30
    later = BudgetScheduler(store=where, accounts=[account("all", Caps(tokens=300))])
    async with later, later.task(Caps(tokens=200)) as unsettled:
        await unsettled.set_aside(Amount(50))
    (level,) = await other.read_accounts("all")
    assert (level.spent.tokens, level.held.tokens) == (80, 0)
    await other.aclose()


@pytest.mark.parametrize("settled", [True, False])
def test_a_run_with_a_part_set_aside_replays(settled: bool, tmp_path: Path) -> None:
    """The log holds the part and its end: decisions before, during and after come out the same."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm " * 30, "so " * 5))
        scheduler = BudgetScheduler(backend, solution=16, log=tmp_path / "run.jsonl")
        async with scheduler, scheduler.task(Caps(tokens=400)) as task:
            await task.generate("a")
            part = await task.set_aside(Amount(200))
            beside = asyncio.gather(*(task.generate("b") for _ in range(3)))
            await asyncio.sleep(0.01)
            if settled:
                part.settle(Amount(20))
            await beside
            await task.generate("c")

    run(main())
    found = replay(tmp_path / "run.jsonl")
    assert found.difference is None
    assert found.decisions >= 5
