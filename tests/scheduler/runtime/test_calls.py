"""Calls: the hold is what is sent, and it ends whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.base import TokenChunk, TokenRequest
from elastic_agent.backends.scripted import Reply, ScriptedCodec
from elastic_agent.errors import BackendUnavailableError, CapExceededError, ContextLengthError, ElasticError
from elastic_agent.scheduler import BudgetScheduler, FixedCap, Price, TaskCall
from elastic_agent.scheduler.ledger.amounts import NOTHING
from elastic_agent.usage import worst_case
from tests.clock import run

PRICE = Price("0.5", "2")


class Watched(ScriptedBackend):
    """Remembers what was asked for."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.asked: list[TokenRequest] = []

    def stream(self, request: TokenRequest):  # type: ignore[no-untyped-def]
        self.asked.append(request)
        return super().stream(request)


def lengths(prompt: str) -> Reply:
    """Thinks and answers at length, by the numbers in the prompt: "... t s"."""
    t, s = (int(word) for word in prompt.split()[-3:-1]) if prompt.split()[-1] == "assistant" else (20, 5)
    return Reply(thinking="hm " * t, solution="ok " * s)


def test_the_hold_is_the_worst_case_of_what_is_sent() -> None:
    """Neither shrunk nor guessed: tokens and money of exactly this prompt and this budget."""

    async def main() -> None:
        backend = Watched(Reply(thinking="hm " * 50, solution="ok " * 50))
        async with (
            BudgetScheduler(backend, price=PRICE) as scheduler,
            scheduler.task(Caps(tokens=500)) as task,
        ):
            call = task.call("one two three", thinking=30, solution=20)
            await call.run()
            grant, (first, second) = call.grant, backend.asked
            assert grant is not None
            assert (
                (first.max_tokens, second.max_tokens)
                == (grant.budget.thinking, grant.budget.solution)
                == (30, 20)
            )
            worst = worst_case(len(first.prompt_ids), 30, 1, 20)
            assert grant.held.tokens == worst.generated == 51
            assert grant.held.nano == PRICE.worst(worst)
            assert call.usage == worst
            assert task.spent.tokens == 51
            assert task.spent.usd == call.cost

    run(main())


@pytest.mark.parametrize("prefill", [True, False])
@given(st.integers(0, 40), st.integers(1, 30), st.integers(0, 60), st.integers(0, 40), st.booleans())
@settings(max_examples=40)
def test_no_call_uses_more_than_its_hold(
    prefill: bool, thinking: int, solution: int, thinks: int, says: int, closes: bool
) -> None:
    """Law 2 call by call, on every ending, at the meter: tokens and money."""

    async def main() -> None:
        reply = Reply(thinking="hm " * thinks, solution="ok " * says, closes=closes)
        backend = ScriptedBackend(reply, codec=ScriptedCodec(prefill=prefill, close=(3, 5)))
        scheduler = BudgetScheduler(backend, price=PRICE, policy=FixedCap(thinking))
        async with scheduler, scheduler.task(Caps(tokens=5000, usd=1)) as task:
            call = task.call("a b c", solution=solution)
            await call.run()
            assert call.grant is not None
            assert backend.meter.output <= call.usage.generated <= call.grant.held.tokens
            charged = task.state.account.spent
            metered = PRICE.charge(type(call.usage)(thinking=backend.meter.output, input=backend.meter.input))
            assert metered <= charged.nano <= call.grant.held.nano
            assert task.state.account.held.tokens == task.state.account.reserve.tokens

    run(main())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8)
def test_cancelled_at_random_points_everything_settles(seed: int) -> None:
    """64 calls at once, each cancelled, closed or left to end at a random moment: the books cover the
    meter."""

    async def main() -> None:
        rng = random.Random(seed)
        backend = ScriptedBackend(lengths, ttft=0.05, tpot=0.01)
        scheduler = BudgetScheduler(backend, price=PRICE)
        async with scheduler, scheduler.task(Caps(tokens=3000, usd="0.02"), on_exhausted="wait") as task:

            async def one(i: int) -> None:
                prompt = f"q {i} {rng.randrange(80)} {rng.randrange(1, 30)}"
                call = task.call(prompt, solution=30)
                how, after = rng.choice(["run", "cancel", "close"]), rng.uniform(0, 4)
                with suppress(CapExceededError, asyncio.CancelledError):
                    if how == "close":
                        events, stop = call.stream(), rng.randrange(40)
                        async for _ in events:
                            stop -= 1
                            if stop < 0:
                                break
                        await events.aclose()
                    else:
                        running = asyncio.create_task(call.run())
                        if how == "cancel":
                            await asyncio.sleep(after)
                            running.cancel()
                        await running

            await asyncio.gather(*(one(i) for i in range(64)))
            account = task.state.account
            scheduler.check()
            assert account.live == {}
            assert account.held == account.reserve
            assert backend.running == 0
            assert backend.meter.output <= account.spent.tokens <= 3000
            assert account.spent.nano <= 20_000_000
            assert task.state.forecast.pending == {}
            assert task.state.forecast.running == 0
            assert task.state.expected_refund == NOTHING

    run(main())


def test_an_unread_stream_that_is_dropped_settles() -> None:
    """`break` without closing: the collector closes the stream, and the hold ends."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 100), tpot=0.1)
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=1000)) as task:
            async for _ in task.call("a"):
                break
            await asyncio.sleep(1)
            assert task.state.account.live == {}
            assert task.spent.tokens is not None
            assert backend.meter.output <= task.spent.tokens < 20

    run(main())


def test_a_call_that_was_never_sent_is_refunded() -> None:
    """Cancelled in the moment of its grant: nothing is charged."""

    async def main() -> None:
        backend = ScriptedBackend(Reply())
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=1000)) as task:
            running = asyncio.create_task(task.generate("a"))
            await asyncio.sleep(0)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            assert backend.meter.requests == 0
            assert task.spent.tokens == 0
            assert task.state.account.live == {}

    run(main())


def test_a_broken_upstream_is_charged_for_what_it_may_have_served() -> None:
    """The error passes through; what is known and what is unknown is charged; the books close."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 100, fail_after=7))
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=1000)) as task:
            call = task.call("a")
            with pytest.raises(BackendUnavailableError):
                await call.run()
            assert task.spent.tokens == call.usage.generated >= backend.meter.output == 7
            assert task.report().calls[0].outcome == "stopped"
            scheduler.check()

    run(main())


def test_a_failed_final_call_can_be_tried_again() -> None:
    """What was reserved for the answer is reserved again."""

    async def main() -> None:
        replies = iter([Reply(solution="x " * 20, fail_after=3), Reply(solution="the answer")])
        backend = ScriptedBackend(lambda prompt: next(replies))
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=60)) as task:
            with pytest.raises(BackendUnavailableError):
                await task.generate("sum up", kind="final", solution=20, thinking=0)
            answer = await task.generate("sum up", kind="final", solution=20, thinking=0)
            assert answer.solution == "the answer"
            assert task.state.status.answered

    run(main())


def test_a_declared_final_call_that_failed_is_still_to_come() -> None:
    """Law 4: no plain call takes the reserve between its failure and the next try; refused ones come again,
    too."""

    async def main() -> None:
        def reply(prompt: str) -> Reply:
            return Reply(solution="so " * 90, fail_after=0 if "FAIL" in prompt else None)

        backend = ScriptedBackend(reply)
        task = BudgetScheduler(backend).task(Caps(tokens=200), expect={"a": 1, "final": 1}, final_solution=40)
        async with task:
            await task.generate("p", kind="a", solution=150, thinking=0)
            with pytest.raises(BackendUnavailableError):
                await task.generate("FAIL", kind="final", solution=40)
            with pytest.raises(CapExceededError):
                await task.generate("all", kind="final", solution=400, on_exhausted="raise")
            for _ in range(3):
                with suppress(CapExceededError):
                    await task.generate("extra", kind="a", solution=60, thinking=0)
            answer = await task.generate("again", kind="final", solution=40)
            assert answer.usage.solution == 40

    run(main())


def test_after_a_last_call_the_rest_is_kept_again() -> None:
    """A plain call that took the reserve and hardly used it: what came back is the final answer's again."""

    async def main() -> None:
        backend = ScriptedBackend(lambda prompt: Reply(solution="so " * (2 if "short" in prompt else 500)))
        async with BudgetScheduler(backend) as s, s.task(Caps(tokens=200), final_solution=64) as task:
            await task.generate("long", solution=120, thinking=0)
            last = task.call("short", solution=64, thinking=0)
            await last.run()
            assert last.grant is not None
            assert last.grant.last
            with pytest.raises(CapExceededError):
                await task.generate("long", solution=64, thinking=0, on_exhausted="wait")
            assert (await task.generate("all", final=True, solution=64)).usage.solution == 64

    run(main())


def test_a_refused_final_call_says_how_to_keep_tokens_for_it() -> None:
    """The last call that fitted was the answer: whoever wants another one declares it."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(solution="so " * 500))
        async with BudgetScheduler(backend) as s, s.task(Caps(tokens=60)) as task:
            for _ in range(2):
                await task.generate("long", solution=40, thinking=0)
            with pytest.raises(CapExceededError, match=r"declare it .*expect=\{'final': 1\}"):
                await task.generate("all", final=True, solution=40)

    run(main())


def test_a_small_first_call_makes_no_small_reserve() -> None:
    """A final answer fits into what was reserved, whatever the first call looked like."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm " * 500, "so " * 99))
        scheduler = BudgetScheduler(backend, policy=FixedCap(500))
        async with scheduler, scheduler.task(Caps(tokens=100), expect={"call": 1, "final": 1}) as task:
            await task.generate("p", solution=8)
            assert (await task.generate("all", kind="final", solution=60)).usage.solution >= 16
        task = scheduler.task(Caps(tokens=30), final_solution=8)
        async with task:
            await task.generate("p", solution=20, thinking=0)
            assert (await task.generate("all", kind="final", solution=60)).usage.solution >= 8

    run(main())


def test_an_upstream_with_a_limit_of_its_own_costs_no_more_passes() -> None:
    """Law 2, in money: passes that end early are not repeated beyond what the hold covers."""

    class Short(ScriptedBackend):
        def stream(self, request: TokenRequest):  # type: ignore[no-untyped-def]
            return super().stream(replace(request, max_tokens=min(request.max_tokens, 8)))

    async def main() -> None:
        backend = Short(Reply("hm " * 400, "so " * 20))
        async with BudgetScheduler(backend, price=PRICE) as s, s.task(Caps(usd="0.002")) as task:
            call = task.call("p " * 500, solution=64)
            await call.run()
            assert call.grant is not None
            assert call.cost is not None
            assert call.usage.passes == 2
            assert call.cost * 10**9 <= call.grant.held.nano

    run(main())


def test_what_never_reached_the_server_is_refunded() -> None:
    """A refused connection costs neither tokens nor the prompt's money."""

    class Gone(ScriptedBackend):
        async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
            request.receipt.refused = True
            raise BackendUnavailableError("nobody there")
            yield TokenChunk(())

    async def main() -> None:
        async with BudgetScheduler(Gone(), price=PRICE) as s, s.task(Caps(usd="0.002")) as task:
            with pytest.raises(BackendUnavailableError):
                await task.generate("p " * 500, solution=64)
            assert task.spent.usd == 0
            assert task.report().calls[0].outcome == "stopped"

    run(main())


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    """Before anything is queued."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(), context_length=40)
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=1000)) as task:
            with pytest.raises(ContextLengthError):
                await task.generate("a " * 30, solution=20)
            assert backend.meter.requests == 0
            assert (await task.generate("a", solution=20)).solution == "ok"

    run(main())


def test_a_prompt_with_thinking_switched_off_gets_no_thinking() -> None:
    """Nothing to think and nothing to force: the hold is the solution."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 9, solution="yes"))
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=1000)) as task:
            ids = [*backend.codec.encode_chat([{"role": "user", "content": "a"}]), 3]
            call = task.call(ids, solution=20)
            assert (await call.run()).solution == "yes"
            assert call.grant is not None
            assert call.grant.budget.thinking == 0
            assert call.grant.held.tokens == 20

    run(main())


def test_a_call_is_run_once() -> None:
    """And has no result before."""

    async def main() -> None:
        async with BudgetScheduler(ScriptedBackend()) as scheduler, scheduler.task(Caps(tokens=1000)) as task:
            call = task.call("a")
            with pytest.raises(RuntimeError, match="iterate over it first"):
                call.result()
            await call.run()
            with pytest.raises(RuntimeError, match="once"):
                await call.run()

    run(main())


def test_a_policy_that_fails_fails_its_own_call() -> None:
    """Not the call whose refund woke it, and nothing stays held."""

    class Broken:
        name = "broken"

        def choose(self, state: object) -> object:
            raise ZeroDivisionError

    async def main() -> None:
        scheduler = BudgetScheduler(ScriptedBackend(), policy=Broken())  # type: ignore[arg-type]
        async with scheduler, scheduler.task(Caps(tokens=1000)) as task:
            with pytest.raises(ZeroDivisionError):
                await task.generate("a")
            assert task.state.account.live == {}
            scheduler.check()

    run(main())


def test_nested_streams_never_wait_for_themselves() -> None:
    """A call made while consuming another one can't wait for that one's refund: it shrinks or is refused."""

    async def main() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 30, solution="ok"), tpot=0.01)
        async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=300)) as task:
            inner: list[TaskCall] = []

            async def agent(i: int) -> None:
                async for event in task.call(f"outer {i}", solution=100):
                    if event.segment == "close":
                        inner.append(task.call(f"inner {i}", solution=100))
                        with suppress(ElasticError):
                            await inner[-1].run()

            await asyncio.gather(agent(0), agent(1))
            assert len(inner) == 2
            assert backend.meter.output <= 300
            assert task.state.account.live == {}

    run(main())
