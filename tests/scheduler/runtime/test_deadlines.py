"""Time: thinking is cut for the answer, never the answer; what can't make it is refused at once."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import DeadlineError
from elastic_agent.scheduler import BudgetScheduler, FixedCap
from tests.clock import run
from tests.scheduler.latency.speeds import known

THINKER = Reply(thinking="hm " * 5000, solution="so the answer is 42")


@pytest.mark.parametrize("learnt", [True, False])
def test_thinking_is_cut_and_the_answer_is_whole(learnt: bool) -> None:
    """With and without a speed that was known before."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.2, tpot=0.02)
        scheduler = BudgetScheduler(backend, latency=known(0.2, 0.02) if learnt else None)
        async with scheduler, scheduler.task(Caps(seconds=10)) as task:
            answer = await task.generate("a", final=True, solution=64)
            assert answer.solution == "so the answer is 42"
            assert answer.thinking_end in ("deadline", "budget")
            assert answer.usage.thinking > 100
            assert task.left.seconds is not None
            assert task.left.seconds > 0

    run(main())


@pytest.mark.parametrize("at", [0.5, 2.0, 4.0, 6.0])
def test_a_tenfold_slow_down_in_mid_thought_costs_thinking(at: float) -> None:
    """Whenever it comes: the answer is whole and in time."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.01)
        scheduler = BudgetScheduler(backend, latency=known(0.1, 0.01), policy=FixedCap(5000))

        async def slow_down() -> None:
            await asyncio.sleep(at)
            backend.ttft, backend.tpot = 1.0, 0.1

        async with scheduler, scheduler.task(Caps(seconds=12)) as task:
            slowing = asyncio.create_task(slow_down())
            answer = await task.generate("a", final=True, solution=16)
            assert answer.solution_end == "eos"
            assert answer.thinking_end == "deadline"
            assert task.left.seconds is not None
            assert task.left.seconds >= 0
            await slowing

    run(main())


def test_a_cold_start_refuses_nobody_afterwards() -> None:
    """First tokens after 20 s, since the upstream was starting, say nothing of what comes then."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm " * 30, "the answer is 42"), ttft=20.0, tpot=0.01)
        async with BudgetScheduler(backend, max_running=16) as scheduler:

            async def early() -> None:
                async with scheduler.task(Caps(tokens=500)) as task:
                    await task.generate("a", final=True, solution=16)

            first = asyncio.gather(*(early() for _ in range(8)))
            await asyncio.sleep(5.0)
            backend.ttft = 0.1  # for those that are sent from now on
            await first
            async with scheduler.task(Caps(seconds=5)) as task:
                answer = await task.generate("b", final=True, solution=16)
                assert answer.solution == "the answer is 42"

    run(main())


@given(
    st.floats(0.5, 15),
    st.floats(0, 0.3),
    st.floats(0.01, 0.05),
    st.integers(1, 6),
    st.integers(0, 3),
)
@settings(max_examples=40)
def test_no_task_is_ever_late(seconds: float, ttft: float, tpot: float, calls: int, width: int) -> None:
    """Chains and fan-outs at any speed: everything is over at the deadline; nobody admitted goes
    unanswered."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=ttft, tpot=tpot)
        scheduler = BudgetScheduler(backend)
        async with scheduler, scheduler.task(Caps(seconds=seconds), final_solution=16) as task:

            async def one(i: int) -> None:
                for _ in range(calls):
                    try:
                        await task.generate(f"step {i}", solution=16)
                    except DeadlineError:
                        return

            await asyncio.gather(*(one(i) for i in range(1 + width)))
            if not task.state.status.answered and task.left.seconds:
                await task.generate("all", final=True, solution=16)
            assert task.left.seconds is not None
            assert asyncio.get_running_loop().time() <= seconds + 1e-6
            assert task.state.account.live == {}

    run(main())


def test_a_chain_leaves_time_for_its_steps_and_its_answer() -> None:
    """Five declared steps under a deadline that can't hold them at full length: each thinks less, all
    answer."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.02)
        scheduler = BudgetScheduler(backend, latency=known(0.1, 0.02))
        async with scheduler, scheduler.task(Caps(seconds=30), expect={"step": 5, "final": 1}) as task:
            steps = [await task.generate(f"step {i}", kind="step", solution=16) for i in range(5)]
            final = await task.generate("all", kind="final", solution=16)
            assert all(step.solution_end == "eos" for step in (*steps, final))
            assert all(step.usage.thinking > 20 for step in steps)
            assert asyncio.get_running_loop().time() <= 30

    run(main())


def test_a_waiting_call_gives_up_at_its_deadline() -> None:
    """With true numbers; it does not wait for a refund that comes too late."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.1)
        scheduler = BudgetScheduler(backend, policy=FixedCap(800))
        async with scheduler, scheduler.task(Caps(tokens=1000), name="all") as outer:
            running = asyncio.create_task(outer.generate("a", solution=50))
            await asyncio.sleep(1)
            async with outer.task(Caps(seconds=5), on_exhausted="wait") as task:
                with pytest.raises(DeadlineError):
                    await task.generate("b", solution=500)
                assert asyncio.get_running_loop().time() <= 6 + 1e-6
            running.cancel()

    run(main())


def test_what_cant_make_it_is_refused_at_once() -> None:
    """No token, no waiting, and the seconds that it would have needed."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.1)
        scheduler = BudgetScheduler(backend, latency=known(0.1, 0.1))
        async with (
            scheduler,
            scheduler.task(Caps(seconds=8), final_solution=30, on_exhausted="raise") as task,
        ):
            await asyncio.sleep(4)
            with pytest.raises(DeadlineError) as error:
                await task.generate("a", solution=16)
            assert error.value.needed["seconds"] > error.value.available["seconds"]
            assert asyncio.get_running_loop().time() == pytest.approx(4)
            final = await task.generate("a", final=True, solution=30)
            assert final.solution_end == "eos"
            await asyncio.sleep(8)
            with pytest.raises(DeadlineError):
                await task.generate("a", final=True, solution=30)

    run(main())


def test_parallel_branches_share_the_window() -> None:
    """Eight lanes think side by side as long as one would: the time is not divided by eight."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.01)
        scheduler = BudgetScheduler(backend, latency=known(0.1, 0.01))
        async with scheduler, scheduler.task(Caps(seconds=10), expect={"part": 8}, final_solution=16) as task:
            got = await asyncio.gather(*(task.generate(f"{i}", kind="part", solution=16) for i in range(8)))
            assert min(answer.usage.thinking for answer in got) > 400
            final = await task.generate("all", final=True, solution=16)
            assert final.solution_end == "eos"

    run(main())
