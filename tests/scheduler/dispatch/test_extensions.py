"""A call at its thinking limit is decided on once more: refunds may have come, and it thinks on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import TaskClosedError
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.scheduler import BudgetScheduler, Price
from elastic_agent.scheduler.estimates.success_curve import Curve, CurveSet
from elastic_agent.scheduler.ledger.amounts import NOTHING, Shortage
from elastic_agent.scheduler.ledger.stores.memory import MemoryStore
from elastic_agent.scheduler.ledger.stores.protocol import Spec
from elastic_agent.training.budgets.run_logs import parse_grants
from tests.clock import run

CURVE = Curve("hard", ((0, 0.05), (40, 0.4), (200, 0.95)))
EASY = Curve("easy", ((0, 0.05), (40, 0.9), (200, 0.95)))
CURVES = CurveSet("scripted", {"hard": CURVE, "easy": EASY, "final": Curve("final", ((0, 0.9),))}, 16)


def replies(prompt: str) -> Reply:
    """The hard one thinks for 180 tokens, the easy one uses a tenth of what it might."""
    return Reply("hm " * 180, "hard " * 8) if "hard" in prompt else Reply("hm " * 4, "easy")


async def two_branches(events: list[dict[str, Any]], **how: Any) -> tuple[Any, Any, ScriptedBackend]:
    """Two calls side by side; the easy one ends early and gives back what the hard one lacks."""
    backend = ScriptedBackend(replies, tpot=0.01)
    caps = how.pop("caps", Caps(tokens=240))
    async with (
        BudgetScheduler(backend, curves=CURVES, log=events.append, **how) as scheduler,
        scheduler.task(caps, expect={"hard": 1, "easy": 1}, final_solution=16) as task,
    ):
        easy = task.call("the simple one", kind="easy", solution=16)
        hard = task.call("the hard one", kind="hard", solution=16, on_exhausted="raise")  # won't wait
        await asyncio.gather(easy.run(), hard.run())
        scheduler.check()
        assert task.state.account.held == task.state.account.reserve
    return hard, easy, backend


def test_it_thinks_on_with_what_a_sibling_gave_back() -> None:
    """The log has the first grant and the raise; the books say what the meter says."""
    events: list[dict[str, Any]] = []
    hard, easy, backend = run(two_branches(events))
    first = next(e for e in events if e["event"] == "grant" and e["kind"] == "hard")
    raised = next(e for e in events if e["event"] == "extended")
    settled = next(e for e in events if e["event"] == "settled" and e["kind"] == "hard")
    assert raised["used"] == first["granted"]["thinking"] < 180
    assert raised["granted"]["thinking"] > first["granted"]["thinking"]
    assert raised["granted"] == {"thinking": hard.grant.budget.thinking, "solution": 16}
    assert hard.result().budget.thinking == hard.grant.budget.thinking
    assert hard.usage.thinking > first["granted"]["thinking"]
    assert hard.usage.passes == 3
    assert settled["charged"]["tokens"] == hard.usage.generated
    assert settled["charged"]["tokens"] + settled["refund"]["tokens"] == raised["hold"]["tokens"]
    assert hard.report().refund == settled["refund"]["tokens"]
    lines = [json.dumps(e, default=str) for e in events]
    assert parse_grants(lines, kinds=["hard"]) == [("hard", hard.grant.budget)]
    assert backend.meter.output == hard.usage.metered_output + easy.usage.metered_output


def test_a_priced_raise_holds_the_pass_that_reads_again() -> None:
    """Three passes over prompt and thinking are held for, and charged as the meter has them."""
    price = Price("0.1", "2")
    events: list[dict[str, Any]] = []
    hard, easy, backend = run(two_branches(events, price=price, caps=Caps(usd="0.0004")))
    raised = next(e for e in events if e["event"] == "extended")
    assert hard.usage.passes == 3
    assert float(hard.cost) <= raised["hold"]["usd"]
    spent = price.charge(hard.usage) + price.charge(easy.usage)
    assert spent == price.bound(backend.meter.input, backend.meter.output)


def test_without_news_nothing_is_raised() -> None:
    """A call alone in its task gets no more at its limit than it got at first."""

    async def main() -> None:
        backend = ScriptedBackend(replies)
        async with (
            BudgetScheduler(backend, curves=CURVES) as scheduler,
            scheduler.task(Caps(tokens=160)) as task,
        ):
            call = task.call("the hard one", kind="hard", solution=16)
            await call.run()
            assert call.usage.passes == 2
            assert call.result().thinking_end is ThinkingEnd.BUDGET

    run(main())


def test_a_raise_is_held_in_the_store_before_it_is_used() -> None:
    """One more hold there; both are settled, and what is charged is what was used."""

    class Counting(MemoryStore):
        holds_taken = 0

        async def hold(self, *args: Any, **options: Any) -> Any:
            type(self).holds_taken += options.get("dispatched", False)
            return await super().hold(*args, **options)

    async def main() -> None:
        store, events = Counting(), []
        hard, easy, _ = await two_branches(events, store=store, accounts=[Spec("acme")])
        assert hard.usage.passes == 3
        assert store.holds_taken == 3
        (level,) = await store.read_accounts("acme")
        assert level.spent.tokens == hard.usage.generated + easy.usage.generated
        assert level.held == NOTHING

    asyncio.run(main())


@pytest.mark.parametrize("answer", ["lack", "away"])
def test_a_raise_that_the_store_has_no_room_for_is_dropped(answer: str) -> None:
    """The call ends with what it had, and nothing stays held for the raise."""

    class Full(MemoryStore):
        taken = 0

        async def hold(self, key: str, account: str, *args: Any, **options: Any) -> Any:
            type(self).taken += options.get("dispatched", False)
            if self.taken == 3 and options.get("dispatched"):
                if answer == "lack":
                    return Shortage(account, "tokens", 1, 0)
                raise TaskClosedError("closed from elsewhere")
            return await super().hold(key, account, *args, **options)

    async def main() -> None:
        store, events = Full(), []
        hard, easy, _ = await two_branches(events, store=store, accounts=[Spec("acme")])
        assert [e["event"] for e in events if e["event"] in ("extended", "extension_dropped")] == [
            "extended",
            "extension_dropped",
        ]
        assert hard.usage.passes == 2
        assert hard.result().thinking_end is ThinkingEnd.BUDGET
        (level,) = await store.read_accounts("acme")
        assert level.spent.tokens == hard.usage.generated + easy.usage.generated

    asyncio.run(main())


def test_cancelled_in_the_middle_of_a_raise_everything_comes_back() -> None:
    """A slow store, and a caller that goes away while the raise is on its way there."""

    loop: asyncio.AbstractEventLoop

    class Slow(MemoryStore):
        taken = 0
        third = asyncio.Event()

        async def hold(self, *args: Any, **options: Any) -> Any:
            type(self).taken += options.get("dispatched", False)
            if self.taken == 3:
                loop.call_soon_threadsafe(self.third.set)
                await asyncio.sleep(0.2)
            return await super().hold(*args, **options)

    async def main() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        store, backend = Slow(), ScriptedBackend(replies, tpot=0.0005)
        scheduler = BudgetScheduler(backend, curves=CURVES, store=store, accounts=[Spec("acme")])
        async with scheduler:
            async with scheduler.task(
                Caps(tokens=240), expect={"hard": 1, "easy": 1}, final_solution=16
            ) as task:
                easy = task.call("the simple one", kind="easy", solution=16)
                hard = task.call("the hard one", kind="hard", solution=16, on_exhausted="raise")
                running = asyncio.gather(easy.run(), hard.run())
                await store.third.wait()
                running.cancel()
                await asyncio.wait([running])
            scheduler.check()
        (level,) = await store.read_accounts("acme")
        assert level.held == NOTHING
        assert level.spent.tokens == hard.usage.generated + easy.usage.generated

    asyncio.run(main())
