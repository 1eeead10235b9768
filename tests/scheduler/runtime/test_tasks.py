"""The scope: who belongs to it, what it refuses, what leaving it does."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from decimal import Decimal

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import (
    CapExceededError,
    DeadlineError,
    InvalidBudgetError,
    InvalidCapsError,
    TaskClosedError,
    UnknownPriceError,
)
from elastic_agent.scheduler import BudgetScheduler, FixedCap, Price, Task, current_task, task_budget
from elastic_agent.scheduler.latency.slack import SAFETY
from elastic_agent.scheduler.ledger.amounts import NOTHING
from tests.clock import run
from tests.scheduler.latency.speeds import known

LONG = Reply(thinking="hm " * 200, solution="so the answer is 42")


def test_the_scope_reaches_what_is_awaited_and_spawned_inside() -> None:
    """A context variable: tasks made inside have it, code outside has not."""

    async def main() -> None:
        assert current_task() is None
        async with task_budget(tokens=100) as task:
            assert current_task() is task

            async def inner() -> Task | None:
                return current_task()

            assert await asyncio.gather(inner(), inner()) == [task, task]
        assert current_task() is None

    run(main())


def test_a_task_can_be_made_current_without_opening_it_again() -> None:
    """For adapters that keep a task open over several pieces of code."""
    task = task_budget(tokens=100).open()
    with task.current():
        assert current_task() is task
    assert current_task() is None
    assert not task.closed
    task.close()


def test_nested_scopes_are_children_and_the_tighter_cap_wins() -> None:
    """A child's own cap does not help it past its parent's; what it leaves is the parent's again."""

    async def main() -> None:
        backend = ScriptedBackend(LONG)
        async with (
            BudgetScheduler(backend) as scheduler,
            scheduler.task(Caps(tokens=100), name="outer") as outer,
        ):
            async with task_budget(tokens=10_000, name="inner") as inner:
                assert inner.parent is outer
                assert inner.left.tokens == 100 - 17  # what the outer task keeps for its own answer
                await inner.generate("a", solution=20)
                assert inner.spent.tokens is not None
                assert 0 < inner.spent.tokens <= 100
            assert outer.spent.tokens == inner.spent.tokens
            async with outer.task(Caps(tokens=20), name="small") as small:
                assert small.left.tokens is not None
                assert small.left.tokens <= 20
            scheduler.check()
        assert backend.meter.output <= 100

    run(main())


@pytest.mark.parametrize("expect", [{"final": 1}, None])
def test_sub_tasks_leave_their_parent_its_answer(expect: dict[str, int] | None) -> None:
    """Law 4 on every level: a task that has made no call of its own keeps what its answer needs, too."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm " * 500, "so " * 500))
        scheduler = BudgetScheduler(backend)
        async with scheduler, scheduler.task(Caps(tokens=300), expect=expect) as outer:
            async with outer.task(Caps(tokens=300), expect={"final": 1}) as inner:
                for kind in ("call", "call", "call", "final"):
                    with suppress(CapExceededError):
                        await inner.generate("p", kind=kind, solution=200)
            assert outer.state.status.admitted
            assert (await outer.generate("sum up", kind="final", solution=50)).usage.solution == 50

    run(main())


def test_a_sub_task_gets_nothing_that_a_declared_final_answer_around_it_lacks() -> None:
    """Money: the outer answer's reserve is known only when a prompt and a price are; then it comes first."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm " * 500, "so " * 500))
        scheduler = BudgetScheduler(backend, price=Price("0.5", "2"))
        async with scheduler, scheduler.task(Caps(usd="0.00007"), expect={"final": 1}) as outer:
            async with outer.task(Caps(tokens=300)) as inner:
                with pytest.raises(CapExceededError):
                    await inner.generate("p", solution=20)
            assert backend.meter.requests == 0
            assert (await outer.generate("sum up", kind="final", solution=20)).usage.solution == 20

    run(main())


def test_a_childs_deadline_is_never_later_than_its_parents() -> None:
    """Time nests, too."""

    async def main() -> None:
        async with task_budget(seconds=10) as outer, outer.task(Caps(seconds=100)) as inner:
            await asyncio.sleep(4)
            assert inner.left.seconds == pytest.approx(6)

    run(main())


def test_siblings_share_what_their_parent_has() -> None:
    """Ten children with the whole cap each: together they stay within it, at the meter."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, ttft=0.1, tpot=0.01)
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=600)) as outer:

            async def agent(i: int) -> int:
                async with outer.task(Caps(tokens=600), name=f"agent-{i}") as task:
                    answer = await task.generate(f"part {i}", solution=20)
                    scheduler.check()
                    return answer.usage.solution

            assert all(await asyncio.gather(*(agent(i) for i in range(10))))
            assert outer.state.account.children == {}
            scheduler.check()
        assert backend.meter.output <= 600

    run(main())


def test_caps_too_small_for_one_answer_are_refused_at_the_opening() -> None:
    """Law 4, in tokens: before a token is spent, with the numbers."""

    async def main() -> None:
        backend = ScriptedBackend(LONG)
        scheduler = BudgetScheduler(backend)
        with pytest.raises(CapExceededError, match="65") as error:
            async with scheduler.task(Caps(tokens=40), final_solution=64):
                raise AssertionError
        assert error.value.needed == {"tokens": 65}
        assert error.value.available == {"tokens": 40}
        with pytest.raises(CapExceededError):
            async with scheduler.task(Caps(tokens=5)):
                raise AssertionError
        assert backend.meter.requests == 0
        assert scheduler.dispatcher.ledger.accounts == {}

    run(main())


def test_too_little_time_for_one_answer_is_refused_when_the_speed_is_known() -> None:
    """Law 4, in seconds."""

    async def main() -> None:
        backend = ScriptedBackend(LONG)
        scheduler = BudgetScheduler(backend, latency=known(0.5, 0.1))
        with pytest.raises(DeadlineError, match="raise seconds=") as error:
            async with scheduler.task(Caps(seconds=3), final_solution=64):
                raise AssertionError
        assert error.value.needed["seconds"] == pytest.approx(0.5 + 6.4 + SAFETY)
        assert error.value.available["seconds"] == pytest.approx(3)
        async with scheduler.task(Caps(seconds=10), final_solution=64):
            pass
        assert backend.meter.requests == 0

    run(main())


def test_money_that_cant_buy_one_answer_is_refused_at_the_first_call() -> None:
    """Law 4, in dollars: the prompt is known then, and nothing has been sent."""

    async def main() -> None:
        backend = ScriptedBackend(LONG)
        async with BudgetScheduler(backend, price=Price(1, 10)) as scheduler:
            async with scheduler.task(Caps(usd="0.0000001")) as task:
                with pytest.raises(CapExceededError, match="no token of this task has been spent") as error:
                    await task.generate("a " * 50, solution=20)
                assert error.value.needed["usd"] > error.value.available["usd"]
                assert task.report().calls[0].outcome == "refused"
            assert backend.meter.requests == 0

    run(main())


def test_an_unknown_price_under_a_money_cap_fails_closed() -> None:
    """Law 8; without a money cap the same model runs, and its cost is unknown."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, model="nobody-sells-this")
        async with BudgetScheduler(backend) as scheduler:
            async with scheduler.task(Caps(usd=1)) as task:
                with pytest.raises(UnknownPriceError, match="nobody-sells-this"):
                    await task.generate("a")
                assert backend.meter.requests == 0
                call = task.call("a", price=Price(1, 1))
                await call.run()
                assert call.cost == task.spent.usd
            async with scheduler.task(Caps(tokens=500)) as task:
                call = task.call("a")
                await call.run()
                assert call.cost is None

    run(main())


def test_after_the_end_nothing_is_served() -> None:
    """TaskClosedError, for a call made before and one made after."""

    async def main() -> None:
        backend = ScriptedBackend(LONG)
        async with BudgetScheduler(backend) as scheduler:
            async with scheduler.task(Caps(tokens=500)) as task:
                early = task.call("a")
            with pytest.raises(TaskClosedError):
                await early.run()
            with pytest.raises(TaskClosedError):
                await task.generate("b")
            with pytest.raises(TaskClosedError):
                async with task.task(Caps(tokens=5)):
                    raise AssertionError
            with pytest.raises(RuntimeError, match="opened before"):
                task.open()
        assert backend.meter.requests == 0

    run(main())


def test_leaving_stops_what_still_runs() -> None:
    """Structured: a straggler is cut, settled and told; a waiting call is refused; nothing stays held."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 5000), ttft=0.1, tpot=0.1)
        async with BudgetScheduler(backend) as scheduler:
            async with scheduler.task(Caps(tokens=1000), on_exhausted="wait") as task:
                running = asyncio.create_task(task.generate("a", solution=20))
                await asyncio.sleep(2)
                waiting = asyncio.create_task(task.generate("b", solution=900))
                await asyncio.sleep(2)
            with pytest.raises(TaskClosedError):
                await running
            with pytest.raises(TaskClosedError):
                await waiting
            account = task.state.account
            assert account.held == NOTHING
            assert backend.running == 0
            assert task.spent.tokens is not None
            assert backend.meter.output <= task.spent.tokens < 100
            outcomes = [call.outcome for call in task.report().calls]
            assert outcomes == ["stopped", "refused"]
            assert scheduler.dispatcher.ledger.accounts == {}

    run(main())


def test_a_stream_left_open_is_closed_with_its_task() -> None:
    """`break` out of a call, then leave."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, tpot=0.1)
        async with BudgetScheduler(backend) as scheduler:
            async with scheduler.task(Caps(tokens=1000)) as task:
                call = task.call("a")
                stream = call.stream()
                async for event in stream:
                    if event.segment == "thinking":
                        break
            assert task.state.account.held == NOTHING
            assert backend.running == 0
            assert call.usage.thinking >= 1

    run(main())


def test_a_stream_on_an_idle_loop_hangs_nobody() -> None:
    """Its loop neither runs nor is closed, so nothing of it will ever end: it is charged whole."""
    task = BudgetScheduler(ScriptedBackend(LONG)).task(Caps(tokens=500)).open()
    kept: list[object] = []

    def elsewhere() -> None:
        loop, stream = asyncio.new_event_loop(), task.call("p", solution=20).stream()
        kept.extend((loop, stream))
        loop.run_until_complete(anext(stream))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    asyncio.run(asyncio.wait_for(task.aclose(), 30))
    assert task.state.account.held == NOTHING
    assert task.spent.tokens == task.report().calls[0].grant.held.tokens  # type: ignore[union-attr]
    kept[0].close()  # type: ignore[attr-defined]


def test_errors_of_the_body_pass_through_and_close_the_task() -> None:
    """An exception ends the task like any other way out."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, tpot=0.1)
        scheduler = BudgetScheduler(backend)
        task = scheduler.task(Caps(tokens=1000))
        stragglers: list[asyncio.Task[object]] = []

        async def body() -> None:
            async with task:
                stragglers.append(asyncio.create_task(task.generate("a")))
                await asyncio.sleep(1)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await body()
        assert task.closed
        assert task.state.account.held == NOTHING
        with pytest.raises(TaskClosedError):
            await stragglers[0]

    run(main())


def test_closing_the_scheduler_closes_its_tasks() -> None:
    """Nothing outlives it."""

    async def main() -> None:
        scheduler = BudgetScheduler(ScriptedBackend(LONG, tpot=0.1))
        task = scheduler.task(Caps(tokens=1000)).open()
        straggler = asyncio.create_task(task.generate("a"))
        await asyncio.sleep(1)
        await scheduler.aclose()
        assert task.closed
        with pytest.raises(TaskClosedError):
            await straggler

    run(main())


def test_the_sync_scope_serves_threads() -> None:
    """`with task_budget` in plain code: each thread runs its calls on an event loop of its own, one
    ledger."""
    backend = ScriptedBackend(LONG)
    answers: list[str] = []
    with task_budget(tokens=700, scheduler=BudgetScheduler(backend)) as task:

        def work(i: int) -> None:
            found = current_task()
            assert found is task
            answers.append(asyncio.run(found.generate(f"q {i}", solution=20)).solution)

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work, i)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        task.scheduler.check()
        assert len(answers) == 8
    assert current_task() is None
    assert backend.meter.output <= 700
    assert task.state.account.held == NOTHING


def test_threads_wait_for_each_others_refunds() -> None:
    """A refund on one event loop wakes a call that waits on another."""
    backend = ScriptedBackend(LONG, tpot=0.0005)
    with task_budget(tokens=400, scheduler=BudgetScheduler(backend), on_exhausted="wait") as task:
        done: list[int] = []

        def work(i: int) -> None:
            done.append(asyncio.run(task.generate(f"q {i}", solution=150, thinking=20)).usage.generated)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(done) == 6
        task.scheduler.check()
    assert backend.meter.output <= 400


def test_leaving_a_sync_scope_charges_what_still_runs() -> None:
    """It can't wait: the call is stopped, its hold is charged whole, its late settling changes nothing."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, tpot=0.1)
        with task_budget(tokens=1000, scheduler=BudgetScheduler(backend)) as task:
            straggler = asyncio.create_task(task.generate("a", thinking=50, solution=20))
            await asyncio.sleep(1)
        assert task.spent.tokens == 71
        with pytest.raises(TaskClosedError):
            await straggler
        assert task.spent.tokens == 71
        assert backend.meter.output <= 71

    run(main())


def test_bad_arguments_say_so() -> None:
    """Before anything is opened."""
    with pytest.raises(InvalidCapsError):
        task_budget()
    with pytest.raises(InvalidCapsError):
        task_budget(usd=-1)
    with pytest.raises(InvalidBudgetError):
        task_budget(tokens=10, final_solution=0)
    with pytest.raises(ValueError, match="on_exhausted"):
        task_budget(tokens=10, on_exhausted="explode")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="not been entered"):
        task_budget(tokens=10).report()
    with task_budget(tokens=100) as task, pytest.raises(ValueError, match="which model"):
        task.call("a")


def test_declared_calls_are_weighed() -> None:
    """The more is declared to come, the less a call thinks; a call that comes takes itself off."""

    async def thinks(declared: int) -> int:
        backend = ScriptedBackend(LONG)
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=1000)) as task:
            task.expect({"step": 1 + declared, "final": 1})
            call = task.call("a", kind="step", solution=20)
            await call.run()
            assert task.state.forecast.own == {"step": declared, "final": 1}
            assert call.grant is not None
            assert call.grant.why["others"] == declared + 1
            return call.grant.budget.thinking or 0

    few, many = run(thinks(1)), run(thinks(9))
    assert few > 2 * many > 0


def test_what_nobody_declared_leaves_the_declared_their_answers() -> None:
    """A first call may take all that is above the reserve; one that nobody declared leaves what the three
    declared ones are expected to say, and they say it."""

    async def held(declared: bool) -> int:
        backend = ScriptedBackend(Reply("hm " * 300, "word " * 7))
        async with (
            BudgetScheduler(backend, policy=FixedCap(400)) as scheduler,
            scheduler.task(Caps(tokens=200), expect={"step": 3, "retry": int(declared)}) as task,
        ):
            retry = task.call("again", kind="retry", solution=32)
            await retry.run()
            for _ in range(0 if declared else 3):
                assert (await task.generate("next", kind="step", solution=32)).solution_end == "eos"
            scheduler.check()
            assert retry.grant is not None
            return retry.grant.held.tokens

    least = 3 * (16 + 1)
    assert run(held(declared=False)) + least == run(held(declared=True))


def test_what_is_left_and_spent() -> None:
    """Per unit; None where there is no cap; the report adds up."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, ttft=0.5, tpot=0.01)
        scheduler = BudgetScheduler(backend, price=Price("0.5", 2))
        async with scheduler, scheduler.task(Caps(usd="0.01")) as task:
            assert task.left.tokens is None
            assert task.left.seconds is None
            await task.generate("a", thinking=30, solution=20)
            await task.generate("b", thinking=0, solution=20)
            assert task.left.usd is not None
            assert task.spent.usd is not None
            assert task.left.usd + task.spent.usd == Decimal("0.01")
            report = task.report()
            assert sum(call.cost or 0 for call in report.calls) == task.spent.usd
            assert sum(call.usage.generated for call in report.calls) == task.spent.tokens
            assert report.to_dict()["calls"][0]["granted"] == {"thinking": 30, "solution": 20}
            assert "2 calls" in str(report)
            assert report.__rich__().row_count == 2

    run(main())


def test_a_report_reads_as_a_tree() -> None:
    """Own calls first, then each sub-task with its sums and its calls below it; long reasons are cut."""

    async def main() -> str:
        backend = ScriptedBackend(LONG)
        scheduler = BudgetScheduler(backend, price=Price("0.5", 2))
        async with scheduler, scheduler.task(Caps(usd="0.01"), name="outer") as task:
            async with task.task(Caps(tokens=400), name="research") as sub:
                async with sub.task(Caps(tokens=200), name="reader") as reader:
                    await reader.generate("a", thinking=9, solution=20, label="page")
                await sub.generate("b", thinking=0, solution=20)
            await task.generate("c", thinking=0, solution=20)
            return str(task.report())

    lines = run(main()).splitlines()
    assert lines[0].startswith("outer: 3 calls, spent ")
    names = [line.split("  answered")[0].split(":")[0].rstrip() for line in lines[2:]]
    assert names == ["1 call", "research", "  1 call", "  reader", "    1 page"]
    assert lines[3].startswith("research: 2 calls, ")
    assert all(len(line.rpartition("  ")[2]) <= 60 for line in lines[2:])
