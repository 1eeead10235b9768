"""A refusal names, at once, the account that binds: its cap, what is spent, what is held and by whom."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import Binding, CapExceededError, DeadlineError
from elastic_agent.scheduler import BudgetScheduler, account
from elastic_agent.scheduler.ledger.stores import open_store

TALK = Reply(thinking="hm " * 5, solution="so it is 42")


async def refusal(task: object, **options: object) -> CapExceededError:
    with pytest.raises(CapExceededError) as caught:
        await asyncio.wait_for(task.generate("hello", **options), 20)  # type: ignore[attr-defined]
    return caught.value


def test_the_outer_task_is_named_where_its_cap_binds() -> None:
    """A child with a cap of 3,000 in a task of 100: it is the 100 that has to be raised."""

    async def main() -> CapExceededError:
        scheduler = BudgetScheduler(ScriptedBackend(TALK))
        async with scheduler, scheduler.task(Caps(tokens=100), name="outer") as outer:
            used = (await outer.generate("hello", solution=40)).usage.generated
            async with scheduler.task(Caps(tokens=3000), name="child") as child:
                error = await refusal(child, solution=200, on_exhausted="raise")
            bound = error.binding
            assert bound is not None
            assert (bound.account, bound.argument, bound.cap) == ("outer", "tokens", 100)
            assert bound.spent == used
            assert bound.held == bound.reserved > 0
            return error

    error = asyncio.run(main())
    assert "tokens=100 of task 'outer' binds" in str(error)
    assert "Raise tokens= of 'outer'" in str(error)
    assert pickle.loads(pickle.dumps(error)).binding == error.binding


def test_spent_and_held_are_told_apart_from_what_is_left() -> None:
    """Left is 0 while a part of the cap is spent: the rest is held, by a running call and for the answer."""

    async def main() -> str:
        slow = ScriptedBackend(TALK, tpot=0.02)
        async with BudgetScheduler(slow) as scheduler, scheduler.task(Caps(tokens=120), name="t") as task:
            running = asyncio.ensure_future(task.generate("one", thinking=5, solution=30))
            await asyncio.sleep(0.05)
            error = await refusal(task, solution=100, on_exhausted="raise")
            await running
            assert error.binding is not None
            assert error.binding.calls == 1
            return str(error)

    assert "by 1 running call" in asyncio.run(main())


def test_a_deadline_names_whose_it_is() -> None:
    """The seconds of the task around it."""

    async def main() -> CapExceededError:
        slow = ScriptedBackend(TALK, ttft=0.1, tpot=0.01)
        async with BudgetScheduler(slow) as scheduler:
            async with scheduler.task(Caps(seconds=30)) as first:
                await first.generate("hello", thinking=2, solution=20)
            async with scheduler.task(Caps(seconds=1), name="outer") as outer:
                await asyncio.sleep(0.9)
                with pytest.raises(DeadlineError) as caught:
                    outer.task(Caps(seconds=60), name="child").open()
                return caught.value

    error = asyncio.run(main())
    assert isinstance(error, DeadlineError)
    assert error.binding is not None
    assert (error.binding.account, error.binding.argument, error.binding.cap) == ("outer", "seconds", 1)


@pytest.mark.parametrize("seconds", [None, 60])
def test_idle_tasks_that_hold_a_whole_key_are_named_at_once(tmp_path: Path, seconds: float | None) -> None:
    """What two idle tasks reserve does not come back by itself: nobody waits a minute for it."""

    async def main() -> None:
        spend = str(tmp_path / "spend.db")
        bob = [account("bob", Caps(tokens=270), window="day")]
        backend = ScriptedBackend(TALK)
        async with (
            BudgetScheduler(backend, store=spend, accounts=bob) as here,
            BudgetScheduler(backend, store=spend, accounts=bob) as there,
        ):
            for name in ("one", "two"):
                idle = there.task(Caps(tokens=140), name=name, final_solution=120)
                idle.open()
                await idle.generate("hello", thinking=0, solution=16)
            began = asyncio.get_running_loop().time()
            async with here.task(Caps(tokens=120, seconds=seconds)) as task:
                error = await refusal(task, solution=100)
            assert asyncio.get_running_loop().time() - began < 10
            assert not isinstance(error, DeadlineError)
            bound = error.binding
            assert bound is not None
            assert (bound.account, bound.cap, bound.window, bound.shared) == ("bob", 270, "day", True)
            assert bound.reserved > 200
            assert bound.calls == 0
            assert bound.spent + bound.held + bound.left == 270
            assert "tokens=270 a day of account 'bob' binds" in str(error)
            assert "for final answers" in str(error)

    asyncio.run(main())


def test_a_call_told_to_wait_waits_for_idle_tasks_and_logs_that_once(tmp_path: Path) -> None:
    """It is refused once, not at every look, and gets its tokens when the idle task ends."""

    async def main() -> None:
        spend, log = str(tmp_path / "spend.db"), []
        bob = [account("bob", Caps(tokens=200))]
        backend = ScriptedBackend(TALK)
        async with (
            BudgetScheduler(backend, store=spend, accounts=bob, log=log.append) as here,
            BudgetScheduler(backend, store=spend, accounts=bob) as there,
        ):
            idle = there.task(Caps(tokens=150), final_solution=120)
            idle.open()
            await idle.generate("hello", thinking=0, solution=16)
            async with here.task(Caps(tokens=150)) as task:
                call = asyncio.ensure_future(
                    task.generate("hello", thinking=0, solution=100, on_exhausted="wait")
                )
                await asyncio.sleep(2.5)
                assert not call.done()
                await idle.aclose()
                assert (await asyncio.wait_for(call, 20)).solution == "so it is 42"
        assert sum(event["event"] == "refused" for event in log) == 1

    asyncio.run(main())


def test_a_binding_speaks_of_money_in_dollars() -> None:
    """In words and for programs."""
    bound = Binding("acme", "nano", 5_000_000_000, 4_000_000_000, 900_000_000, 0, 2, shared=True)
    assert str(bound) == "usd=5 of account 'acme' binds: $4 spent, $0.9 held ($0.9 by 2 running calls)"
    assert bound.to_dict() == {
        "account": "acme",
        "unit": "usd",
        "cap": 5.0,
        "spent": 4.0,
        "held": 0.9,
        "reserved": 0.0,
        "left": 0.1,
        "calls": 2,
        "window": None,
    }


def test_the_store_names_holders(tmp_path: Path) -> None:
    """A hold that a call elsewhere has is a call; one that was not sent is a reserve."""

    async def main() -> None:
        store = open_store(tmp_path / "spend.db")
        bob = [account("bob", Caps(tokens=100))]
        async with BudgetScheduler(ScriptedBackend(TALK), store=store, accounts=bob) as scheduler:
            from elastic_agent.scheduler.ledger.amounts import Amount

            await store.hold("elsewhere", "bob", Amount(90), lease=60, dispatched=True)
            async with scheduler.task(Caps(tokens=100)) as task:
                error = await refusal(task, solution=50, on_exhausted="raise")
            assert error.binding is not None
            assert (error.binding.held, error.binding.calls, error.binding.reserved) == (90, 1, 0)

    asyncio.run(main())
