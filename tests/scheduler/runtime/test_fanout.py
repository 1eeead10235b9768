"""Many calls under one cap: all are served, in order, within it, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler import BudgetScheduler, FixedCap, Price, Task
from elastic_agent.scheduler.ledger.amounts import NOTHING
from tests.clock import run

TALK = Reply(thinking="hm " * 60, solution="so it is 42")


@pytest.mark.parametrize("branches", [32, 200])
def test_a_fan_out_that_cant_be_held_at_once_is_served_whole(branches: int) -> None:
    """Nobody is refused while there is money: calls wait and shrink; the meter stays under the cap."""

    async def main() -> None:
        backend = ScriptedBackend(TALK, ttft=0.05, tpot=0.01)
        cap = branches * 60
        scheduler = BudgetScheduler(backend, price=Price("0.5", "2"))
        async with scheduler, scheduler.task(Caps(tokens=cap, usd="0.5")) as task:
            answers = await asyncio.gather(
                *(task.generate(f"part {i}", solution=48) for i in range(branches))
            )
            scheduler.check()
            final = await task.generate("all of it", final=True, solution=48)
            assert task.state.account.held == NOTHING
        assert [a.solution for a in (*answers, final)] == ["so it is 42"] * (branches + 1)
        assert all(a.solution_end == "eos" for a in answers)
        assert backend.meter.output <= cap
        if branches == 32:
            assert sum(a.usage.thinking for a in answers) > 0

    run(main())


def scheduler_work(branches: int, nested: bool) -> int:
    """Functions of the scheduler that a fan-out enters, half of whose calls have to wait.

    Args:
        nested: each branch is a sub-task.
    """
    entered = 0

    async def part(task: Task, i: int) -> None:
        if nested:
            async with task.task(Caps(tokens=400), final_solution=1) as branch:
                await branch.generate(f"part {i}", solution=40)
        else:
            await task.generate(f"part {i}", solution=40)

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal entered
        entered += event == "call" and "/scheduler/" in frame.f_code.co_filename

    async def main() -> None:
        backend = ScriptedBackend(TALK, ttft=0.05, tpot=0.01)
        scheduler = BudgetScheduler(backend, price=Price("0.5", "2"), policy=FixedCap(8))
        caps = Caps(tokens=branches * 28, usd=f"{branches * 0.0016:.4f}", seconds=3600)
        async with scheduler, scheduler.task(caps, expect={"final": 1}) as task:
            before = sys.getprofile()
            sys.setprofile(count)
            try:
                await asyncio.gather(*(part(task, i) for i in range(branches)))
            finally:
                sys.setprofile(before)
            await task.generate("all of it", kind="final", solution=40)
            scheduler.check()
        assert backend.meter.output <= branches * 28

    run(main())
    return entered


@pytest.mark.parametrize("nested", [False, True])
def test_the_work_grows_with_the_branches_and_not_faster(nested: bool) -> None:
    """Counted, not timed: a branch among 400 costs what it costs among 100, also in a sub-task of its own."""
    each = {n: scheduler_work(n, nested) / n for n in (100, 200, 400)}
    assert each[400] < 1.15 * each[100], each


def test_waiting_calls_are_woken_in_the_order_of_their_arrival() -> None:
    """First come, first served, however many wait."""

    async def main() -> None:
        backend = ScriptedBackend(TALK, ttft=0.05, tpot=0.01)
        scheduler = BudgetScheduler(backend, policy=FixedCap(0))
        order: list[int] = []
        async with (
            scheduler,
            scheduler.task(Caps(tokens=1000), final_solution=10, on_exhausted="wait") as task,
        ):

            async def one(i: int) -> None:
                call = task.call(f"part {i}", solution=300)
                async for _ in call:
                    if i not in order:
                        order.append(i)

            await asyncio.gather(*(one(i) for i in range(30)))
        assert order == list(range(30))

    run(main())


def test_a_large_call_is_not_overtaken_for_ever() -> None:
    """Small ones that came later wait behind it."""

    async def main() -> None:
        backend = ScriptedBackend(TALK, ttft=0.05, tpot=0.01)
        scheduler = BudgetScheduler(backend, policy=FixedCap(0))
        order: list[str] = []
        async with (
            scheduler,
            scheduler.task(Caps(tokens=1000), final_solution=10, on_exhausted="wait") as task,
        ):

            async def one(name: str, solution: int) -> None:
                await task.generate(name, solution=solution)
                order.append(name)

            first = [asyncio.create_task(one(f"first {i}", 400)) for i in range(2)]
            await asyncio.sleep(0.01)
            large = asyncio.create_task(one("large", 900))
            await asyncio.sleep(0.01)
            small = [asyncio.create_task(one(f"small {i}", 50)) for i in range(20)]
            await asyncio.gather(*first, large, *small)
        assert sorted(order[:2]) == ["first 0", "first 1"]
        assert order[2] == "large"

    run(main())


def test_the_final_call_does_not_queue() -> None:
    """Its tokens are set aside: it runs while others wait."""

    async def main() -> None:
        backend = ScriptedBackend(TALK, ttft=0.05, tpot=0.01)
        scheduler = BudgetScheduler(backend, policy=FixedCap(0))
        order: list[str] = []
        async with scheduler, scheduler.task(Caps(tokens=1000), final_solution=100) as task:

            async def one(name: str, final: bool = False) -> None:
                await task.generate(name, solution=100 if final else 800, final=final)
                order.append(name)

            others = [asyncio.create_task(one(f"part {i}")) for i in range(3)]
            await asyncio.sleep(0.01)
            await one("final", final=True)
            await asyncio.gather(*others)
        assert order.index("final") <= 1

    run(main())


def test_priority_goes_first_among_those_that_wait() -> None:
    """Lower is earlier."""

    async def main() -> None:
        backend = ScriptedBackend(TALK, ttft=0.05, tpot=0.01)
        scheduler = BudgetScheduler(backend, policy=FixedCap(0))
        order: list[int] = []
        async with (
            scheduler,
            scheduler.task(Caps(tokens=1000), final_solution=10, on_exhausted="wait") as task,
        ):

            async def one(i: int, priority: int) -> None:
                await task.generate(f"part {i}", solution=900, priority=priority)
                order.append(i)

            await asyncio.gather(*(one(i, -i) for i in range(5)))
        assert order == [4, 3, 2, 1, 0]

    run(main())


@pytest.mark.parametrize("how", ["shrink", "wait", "raise"])
def test_when_the_cap_runs_out(how: str) -> None:
    """`shrink`: the last call that fits is the answer; `wait` and `raise` leave the reserve alone. Never a
    hang."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 500, solution="ok " * 500), tpot=0.01)
        scheduler = BudgetScheduler(backend)
        task = scheduler.task(Caps(tokens=200), final_solution=40, on_exhausted=how)  # type: ignore[arg-type]
        async with scheduler, task:
            results = await asyncio.gather(
                *(task.generate(f"part {i}", solution=40) for i in range(12)), return_exceptions=True
            )
            served = [r for r in results if not isinstance(r, BaseException)]
            refused = [r for r in results if isinstance(r, CapExceededError)]
            assert len(served) + len(refused) == 12
            assert served
            assert refused
            for error in refused:
                assert error.needed["tokens"] > error.available["tokens"]
            if how == "shrink":
                assert task.state.status.answered
                assert task.left.tokens is not None
                assert task.left.tokens < 17
            else:
                final = await task.generate("all", final=True, solution=40)
                assert final.usage.solution == 40
        assert backend.meter.output <= 200

    run(main())


@given(
    st.integers(40, 600),
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.integers(1, 60),
            st.floats(0, 2),
            st.sampled_from(["shrink", "wait", "raise"]),
        ),
        min_size=1,
        max_size=25,
    ),
    st.one_of(st.none(), st.floats(1, 20)),
)
@settings(max_examples=50)
def test_any_mix_of_calls_ends(
    cap: int, calls: list[tuple[int, int, float, str]], seconds: float | None
) -> None:
    """No deadlock, no overspend, no hold left, and an answer to every task that was admitted, for any
    arrivals."""

    async def main() -> None:
        backend = ScriptedBackend(TALK, ttft=0.05, tpot=0.01)
        scheduler = BudgetScheduler(backend)
        async with scheduler, scheduler.task(Caps(tokens=cap, seconds=seconds), final_solution=20) as task:

            async def one(i: int, thinking: int, solution: int, wait: float, how: str) -> bool:
                await asyncio.sleep(wait)
                try:
                    await task.generate(f"part {i}", thinking=thinking, solution=solution, on_exhausted=how)
                except CapExceededError:
                    return False
                return True

            got = await asyncio.gather(*(one(i, *call) for i, call in enumerate(calls)))
            scheduler.check()
            in_time = task.left.seconds is None or task.left.seconds > 0.3  # the caller's own delay aside
            if any(got) and not task.state.status.answered and in_time:
                final = await task.generate("all", final=True, solution=20)
                assert final.solution_end == "eos"
            assert task.state.account.live == {}
            if seconds is not None:
                assert task.left.seconds is not None
                assert task.left.seconds >= 0
        assert backend.meter.output <= cap

    run(main())
