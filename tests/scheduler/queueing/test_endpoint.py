"""An endpoint's queue and deadlines: which call is next, which is refused, and that waiting holds nothing."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.base import TokenChunk, TokenRequest
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import DeadlineError, EndpointBusyError, TaskClosedError
from elastic_agent.scheduler import BudgetScheduler, FixedCap
from elastic_agent.scheduler.queueing.endpoint import PATIENCE
from elastic_agent.scheduler.runtime.task import Task
from tests.clock import run
from tests.scheduler.latency.speeds import known

SHORT = Reply(thinking="", solution="so it is")
THINKER = Reply(thinking="hm " * 5000, solution="so it is")


async def finish(task: Task, done: list[str], prompt: str = "a", **options: object) -> None:
    """One call; its task's name goes to `done` when it is answered."""
    await task.generate(prompt, **options)
    done.append(task.name)


def test_no_more_calls_than_slots_and_waiting_ones_hold_nothing() -> None:
    """Ten calls, three slots: the others stand in the queue without a token held for them."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        scheduler = BudgetScheduler(backend, max_running=3)
        async with scheduler, scheduler.task(Caps(tokens=9000)) as task:
            calls = [asyncio.create_task(task.generate(f"{i}", solution=16)) for i in range(10)]
            most = 0
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.1)
                most = max(most, backend.running)
                assert len(task.state.account.live) == backend.running
                scheduler.check()
            assert most == 3

    run(main())


def test_within_a_task_calls_keep_their_order() -> None:
    """One slot: answered as they came; a lower priority number goes before."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        done: list[int] = []
        scheduler = BudgetScheduler(backend, max_running=1)
        async with scheduler, scheduler.task(Caps(tokens=9000)) as task:

            async def one(i: int, priority: int) -> None:
                await task.generate(f"{i}", solution=16, priority=priority)
                done.append(i)

            await asyncio.gather(*(one(i, -1 if i == 4 else 0) for i in range(6)))
            assert done == [4, 0, 1, 2, 3, 5]

    run(main())


def test_the_call_that_would_be_late_goes_first() -> None:
    """By its moment, not by its arrival."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        done: list[str] = []
        async with BudgetScheduler(backend, max_running=1, latency=known(1.0, 0.0)) as scheduler:
            tasks = [scheduler.task(Caps(seconds=s), name=f"{s}", final_solution=4) for s in (90, 80, 6, 4)]
            for task in tasks:
                task.open()
            await asyncio.gather(*(finish(task, done, final=True, solution=4) for task in tasks))
            assert done == ["4", "6", "80", "90"]

    run(main())


def test_keys_take_turns() -> None:
    """One key with twenty calls does not keep a second one waiting behind all of them."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        done: list[str] = []
        async with BudgetScheduler(backend, max_running=1, policy=FixedCap(8)) as scheduler:
            many = scheduler.task(Caps(tokens=9000), name="many", key="a").open()
            also = scheduler.task(Caps(tokens=9000), name="also", key="a").open()
            few = scheduler.task(Caps(tokens=9000), name="few", key="b").open()
            calls = [*[many] * 10, *[also] * 10, *[few] * 3]
            await asyncio.gather(*(finish(task, done, solution=16) for task in calls))
            assert [name == "few" for name in done[:6]].count(True) == 3

    run(main())


def test_nothing_waits_for_ever() -> None:
    """A call without a deadline is served although urgent ones keep coming."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        done: list[str] = []
        async with BudgetScheduler(backend, max_running=1) as scheduler:
            patient = scheduler.task(Caps(tokens=9000), name="patient", key="b").open()

            async def waits() -> None:
                await asyncio.sleep(5)
                await finish(patient, done, solution=16)
                assert asyncio.get_running_loop().time() < 5 + PATIENCE + 5

            async def urgent(i: int) -> None:
                await asyncio.sleep(0.9 * i)
                with suppress(DeadlineError):
                    async with scheduler.task(Caps(seconds=5), key="a", final_solution=4) as task:
                        await task.generate("a", final=True, solution=4)

            await asyncio.gather(waits(), *(urgent(i) for i in range(200)))
            assert done == ["patient"]

    run(main())


def test_a_full_queue_refuses_with_a_time() -> None:
    """Not the final answer of an admitted task; and one key leaves places to others."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        async with BudgetScheduler(backend, max_running=1, max_waiting=4) as scheduler:
            task = scheduler.task(Caps(tokens=9000), key="a").open()
            other = scheduler.task(Caps(tokens=9000), key="b").open()
            five = (task.generate(f"{i}", solution=16) for i in range(5))
            got = asyncio.gather(*five, return_exceptions=True)
            await asyncio.sleep(0.1)
            answer = asyncio.create_task(other.generate("b", solution=16))
            final = asyncio.create_task(task.generate("f", final=True, solution=16))
            kinds = [type(outcome).__name__ for outcome in await got]
            assert kinds == ["Generation"] * 3 + ["EndpointBusyError"] * 2
            assert (await answer).solution_end == (await final).solution_end == "eos"
            scheduler.check()

    run(main())


def test_a_cancelled_call_gives_its_place_up() -> None:
    """Waiting or running."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        async with BudgetScheduler(backend, max_running=1) as scheduler:
            task = scheduler.task(Caps(tokens=9000)).open()
            calls = [asyncio.create_task(task.generate(f"{i}", solution=16)) for i in range(4)]
            await asyncio.sleep(0.5)
            calls[1].cancel()
            calls[0].cancel()
            await asyncio.gather(calls[2], calls[3])
            assert asyncio.get_running_loop().time() <= 5
            assert scheduler.endpoint_for(backend).idle
            await task.aclose()
            with pytest.raises(TaskClosedError):
                await task.generate("late", solution=16)

    run(main())


def test_a_call_inside_an_open_one_does_not_wait_for_its_slot() -> None:
    """One slot, and the outer call's consumer asks for another call: it would wait for ever."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0)
        scheduler = BudgetScheduler(backend, max_running=1)
        async with scheduler, scheduler.task(Caps(tokens=9000)) as task:
            inner = None
            async for _ in task.call("outer", solution=16):
                inner = inner or await task.generate("inner", solution=16)
            assert inner is not None
            assert inner.solution_end == "eos"

    run(main())


def test_thinking_gives_way_to_a_call_that_waits() -> None:
    """A call without a deadline thinks until another call needs its slot, and ends in time for that call."""

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.01)
        latency = known(0.1, 0.01)
        policy = FixedCap(5000)
        async with BudgetScheduler(backend, max_running=1, latency=latency, policy=policy) as scheduler:
            patient = scheduler.task(Caps(tokens=9000)).open()
            thinking = asyncio.create_task(patient.generate("a", solution=16))
            await asyncio.sleep(1)
            async with scheduler.task(Caps(seconds=10), final_solution=16) as task:
                answer = await task.generate("b", final=True, solution=16)
                assert answer.solution_end == "eos"
                assert asyncio.get_running_loop().time() <= 11
            cut = await thinking
            assert cut.thinking_end == "deadline"
            assert cut.usage.thinking > 500  # as late as the other's deadline allows
            assert cut.solution_end == "eos"

    run(main())


class Saturated(ScriptedBackend):
    """Two calls use it to capacity: more of them share its tokens a second."""

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        async for chunk in super().stream(request):
            self.tpot = max(0.01, self.running / 200)
            yield chunk


async def saturate(scheduler: BudgetScheduler) -> None:
    """Show it its speed at one to eight calls at once."""
    async with scheduler.task(Caps(tokens=90_000)) as task:
        for width in range(1, 9):
            await asyncio.gather(*(task.generate("warm", solution=200) for _ in range(width)))


def long_or_short(prompt: str) -> Reply:
    return Reply("", "so " * (400 if "long" in prompt else 150 if "warm" in prompt else 10))


def test_no_more_calls_at_once_than_help() -> None:
    """Eight may run, two bring as many answers: two run, each of them four times as fast."""

    async def main() -> None:
        backend, done = Saturated(long_or_short, ttft=0.1, tpot=0.01), list[str]()
        async with BudgetScheduler(backend, max_running=8) as scheduler:
            await saturate(scheduler)
            tasks = [
                scheduler.task(Caps(seconds=60), name=f"{i}", final_solution=500).open() for i in range(6)
            ]
            calls = [asyncio.create_task(finish(t, done, prompt="long", final=True)) for t in tasks]
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.1)
                assert backend.running <= 2
            assert sorted(done) == list("012345")
            for task in tasks:
                await task.aclose()

    run(main())


def test_a_call_with_less_time_than_those_that_run_has_a_slot_beside_them() -> None:
    """It is promised its answer, and starts when it has to; one with more time waits."""

    async def main() -> None:
        backend, done = Saturated(long_or_short, ttft=0.1, tpot=0.01), list[str]()
        async with BudgetScheduler(backend, max_running=8) as scheduler:
            await saturate(scheduler)
            long = [
                scheduler.task(Caps(seconds=30), name=f"long {i}", final_solution=500).open() for i in (1, 2)
            ]
            calls = [asyncio.create_task(finish(t, done, prompt="long", final=True)) for t in long]
            await asyncio.sleep(0.5)
            patient = scheduler.task(Caps(seconds=60), name="patient", final_solution=16).open()
            hurried = scheduler.task(Caps(seconds=2), name="hurried", final_solution=16).open()
            calls += [asyncio.create_task(finish(t, done, final=True)) for t in (patient, hurried)]
            await asyncio.gather(*calls)
            assert done[0] == "hurried"
            assert done.index("patient") > done.index("long 1")
            for task in (*long, patient, hurried):
                await task.aclose()

    run(main())


def test_a_task_that_would_come_too_late_is_refused_with_its_time() -> None:
    """Before a token: its answer alone takes longer, or what was promised before it does."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0, tpot=0.1)
        latency = known(1.0, 0.1)
        async with BudgetScheduler(backend, max_running=1, latency=latency) as scheduler:
            plan = {"expect": {"step": 3, "final": 1}, "final_solution": 10}
            with pytest.raises(DeadlineError) as alone:
                scheduler.task(Caps(seconds=5), **plan).open()
            assert alone.value.needed["seconds"] > 8
            tasks = [scheduler.task(Caps(seconds=10), final_solution=10).open() for _ in range(3)]
            with pytest.raises(DeadlineError, match="3 admitted tasks") as error:
                scheduler.task(Caps(seconds=10), final_solution=10).open()
            assert error.value.needed["seconds"] > 10
            assert error.value.available["seconds"] == pytest.approx(10)
            assert backend.meter.requests == 0
            enough = Caps(seconds=error.value.needed["seconds"] + 0.1)
            later = scheduler.task(enough, final_solution=10).open()
            for task in [*tasks, later]:
                answer = await task.generate("a", final=True, solution=10)
                assert answer.solution_end == "eos"
                await task.aclose()
            scheduler.task(Caps(seconds=10), final_solution=10).open()

    run(main())


def test_a_task_that_would_make_others_late_is_refused() -> None:
    """It could be in time itself, by going first."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0, tpot=0.1)
        async with BudgetScheduler(backend, max_running=1, latency=known(1.0, 0.1)) as scheduler:
            scheduler.task(Caps(seconds=4), name="first", final_solution=10).open()
            with pytest.raises(DeadlineError, match="'first' would miss its own deadline"):
                scheduler.task(Caps(seconds=3.9), final_solution=10).open()

    run(main())


def test_parallel_calls_are_planned_side_by_side() -> None:
    """Eight declared parts take the time of one where there are slots for all."""

    async def main() -> None:
        backend = ScriptedBackend(SHORT, ttft=1.0, tpot=0.1)
        async with BudgetScheduler(backend, latency=known(1.0, 0.1), solution=40) as scheduler:
            plan = {"expect": {"part": 8, "final": 1}, "final_solution": 10}
            with pytest.raises(DeadlineError):
                scheduler.task(Caps(seconds=9), **plan).open()
            scheduler.task(Caps(seconds=9), parallel=["part"], **plan).open()

    run(main())


def test_limits_that_make_no_sense_and_errors_that_travel() -> None:
    """A queue without slots is a mistake; the time to try again survives pickling."""
    for limits in ({"max_running": 0}, {"max_waiting": 3}, {"max_running": 2, "max_waiting": 0}):
        with pytest.raises(ValueError, match="max_"):
            BudgetScheduler(ScriptedBackend(), **limits)
    error = pickle.loads(pickle.dumps(EndpointBusyError("busy", 1.5)))
    assert (str(error), error.retry_after) == ("busy", 1.5)
