"""A scheduler whose calls need a hold in a store: shared by processes, and there after a crash."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks._servers import NoServerError, PostgresServer, RedisServer
from elastic_agent import Caps, Generation, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError, StoreError, StoreUnavailableError, TaskClosedError
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.ledger.accounts import Hold, HoldState
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.memory import MemoryStore
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store, StoredAccount

TALK = Reply(thinking="hm " * 60, solution="so it is 42")


def shared(cap: int | None) -> list[Spec]:
    return [Spec("acme", tokens=cap), Spec("acme/alice")]


async def level(store: Store, account: str = "acme") -> StoredAccount:
    return next(found for found in await store.read_accounts(account) if found.spec.id == account)


class Moody(MemoryStore):
    """A store that can be away, and slow; `steps` counts what was asked of it."""

    away = False
    pause = 0.0
    steps = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("open", "hold", "settle", "refund", "read_accounts", "renew", "expire", "dispatch"):
            return found

        async def step(*args: Any, **options: Any) -> Any:
            self.steps += 1
            if self.away:
                raise StoreUnavailableError("away")
            await asyncio.sleep(self.pause)
            return await found(*args, **options)

        return step


def test_two_schedulers_share_one_account(ledger: str) -> None:
    """The meters of both together stay under the cap, and the store says what the meters say."""
    cap = 1500

    async def one(name: str) -> tuple[int, int]:
        backend = ScriptedBackend(TALK, ttft=0.002, tpot=0.0002)
        answered = 0
        # What the other holds for its final answer is waited for, at most for a lease
        async with BudgetScheduler(backend, store=ledger, accounts=shared(cap), lease=2) as scheduler:
            async with scheduler.task(Caps(tokens=cap), name=name) as task:
                for i in range(30):
                    with suppress(CapExceededError):
                        await task.generate(f"part {i}", solution=16, kind="part")
                        answered += 1
            scheduler.check()
        return backend.meter.output, answered

    async def main() -> None:
        (a, said_a), (b, said_b) = await asyncio.gather(one("a"), one("b"))
        assert a + b <= cap
        assert min(said_a, said_b) > 0
        store = open_store(ledger)
        await store.check()
        stored = await level(store)
        assert stored.held == NOTHING
        assert a + b <= stored.spent.tokens <= cap  # forced closes are charged and not in a meter's output
        assert stored.spent.tokens > 0.8 * cap
        await store.aclose()

    asyncio.run(main())


def test_what_another_has_spent_is_not_spent_again() -> None:
    """The dispatcher doesn't know of it until the store refuses: the call shrinks into what is left."""

    async def main() -> None:
        store, backend = MemoryStore(), ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=store, accounts=shared(300)) as scheduler:
            await store.hold("elsewhere", "acme", Amount(240, 0), lease=60, dispatched=True)
            await store.settle("elsewhere", Amount(240, 0))
            async with scheduler.task(Caps(tokens=1000)) as task:
                said = await task.generate("a", solution=16)
                assert said.usage.generated <= 60
            refused = 0
            async with scheduler.task(Caps(tokens=1000)) as task:
                for i in range(10):
                    try:
                        await task.generate(f"b {i}", solution=16)
                    except CapExceededError:
                        refused += 1
            assert refused > 0
            await until(lambda: nothing_held(store))
            assert 240 < (await level(store)).spent.tokens <= 300

    asyncio.run(main())


def test_a_call_waits_for_what_another_process_holds() -> None:
    """It may come back: the call waits as it would for a call of its own process."""

    async def main() -> None:
        store, backend = MemoryStore(), ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=store, accounts=shared(200)) as scheduler:
            await store.hold("elsewhere", "acme", Amount(200, 0), lease=60, dispatched=True)
            async with scheduler.task(Caps(tokens=1000)) as task:
                call = asyncio.ensure_future(task.generate("a", solution=16))
                await asyncio.sleep(0.6)
                assert not call.done()
                assert backend.meter.requests == 0
                await store.refund("elsewhere")
                assert (await call).solution == "so it is 42"
                await store.hold("again", "acme", Amount(100, 0), lease=60)
                with pytest.raises(CapExceededError):
                    await task.generate("b", solution=190, on_exhausted="raise")

    asyncio.run(main())


def test_the_final_answers_reserve_is_held_in_the_store() -> None:
    """What another process takes can't be the tokens of this task's last answer."""

    async def main() -> None:
        store, backend = MemoryStore(), ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=store, accounts=shared(400)) as scheduler:
            task = scheduler.task(Caps(tokens=400), expect={"part": 1, "final": 1}, final_solution=40)
            async with task:
                await task.generate("a", kind="part", solution=16, thinking=8)
                stored = await level(store)
                assert stored.held.tokens >= 41
                left = stored.balances()["tokens"].available
                await store.hold("elsewhere", "acme", Amount(int(left), 0), lease=60, dispatched=True)
                final = await task.generate("all", final=True, solution=40)
                assert final.solution == "so it is 42"
            await store.settle("elsewhere", NOTHING)
        # The scheduler closed its store, as it owns it: what is left is read from the rows.
        root = scheduler.account()
        assert root is not None
        assert root.held == NOTHING

    asyncio.run(main())


def test_a_task_that_ends_gives_its_reserve_back() -> None:
    """Once everything is written, nothing is held."""

    async def main() -> None:
        store, backend = MemoryStore(), ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            for _ in range(3):
                async with scheduler.task(Caps(tokens=400), final_solution=40) as task:
                    await task.generate("a", solution=16)
            await until(lambda: nothing_held(store))
            spent = (await level(store)).spent
            assert spent.tokens == scheduler.dispatcher.ledger.accounts["acme"].spent.tokens

    asyncio.run(main())


@pytest.mark.parametrize("moment", ["in the store", "while it thinks"])
def test_a_cancelled_call_leaves_nothing_behind(moment: str) -> None:
    """Also when its hold was just being written: the write goes on, and is undone."""

    async def main() -> None:
        store, backend = Moody(), ScriptedBackend(TALK, tpot=0.01)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            async with scheduler.task(Caps(tokens=400)) as task:
                store.pause = 0.3 if moment == "in the store" else 0.0
                call = asyncio.ensure_future(task.generate("a", solution=16))
                await asyncio.sleep(0.15)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                store.pause = 0.0
            await until(lambda: nothing_held(store))
            charged = (await level(store)).spent.tokens
            assert charged == scheduler.dispatcher.ledger.accounts["acme"].spent.tokens
            assert (charged == 0) == (moment == "in the store")

    asyncio.run(main())


@pytest.mark.parametrize("after", [0.05, 0.15, 0.25, 0.35, 0.45])
def test_a_task_that_ends_while_the_store_is_slow_leaves_nothing_behind(after: float) -> None:
    """At whichever step: its reserve was being written, or its call's hold."""

    async def main() -> None:
        store, backend = Moody(), ScriptedBackend(TALK, tpot=0.01)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            store.pause = 0.2
            task = scheduler.task(Caps(tokens=400), final_solution=40).open()
            call = asyncio.ensure_future(task.generate("a", solution=16))
            await asyncio.sleep(after)
            task.close()
            with suppress(TaskClosedError, asyncio.CancelledError):
                await call
            store.pause = 0.0
            await asyncio.sleep(0.5)
            await until(lambda: nothing_held(store))
            spent = (await level(store)).spent
            assert spent.tokens == scheduler.dispatcher.ledger.accounts["acme"].spent.tokens

    asyncio.run(main())


def test_a_task_that_ends_right_before_its_call_is_sent_says_that_it_ended() -> None:
    """The call has its hold, and stops itself one step of the event loop later: too late for this check."""

    async def main() -> None:
        store, backend = Moody(), ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            task = scheduler.task(Caps(tokens=400)).open()
            assert scheduler.durable is not None
            assure = scheduler.durable.assure

            async def assure_after_the_end(holds: Sequence[Hold], what: str) -> None:
                task.close()
                await assure(holds, what)

            scheduler.durable.assure = assure_after_the_end  # type: ignore[method-assign]
            with pytest.raises(TaskClosedError, match=r"has ended: its call 1, of .*, was stopped"):
                await task.generate("a", solution=16)
            assert backend.meter.output == 0
            await until(lambda: nothing_held(store))

    asyncio.run(main())


def test_while_the_store_is_away_no_call_leaves() -> None:
    """Fail closed: refused with what to do, the accounts in memory untouched; later calls find it back."""

    async def main() -> None:
        store, backend = Moody(), ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            assert scheduler.durable is not None
            scheduler.durable.link.patience = 0.3
            async with scheduler.task(Caps(tokens=400)) as task:
                store.away = True
                with pytest.raises(StoreUnavailableError, match="no call leaves"):
                    await task.generate("a", solution=16)
                assert backend.meter.requests == 0
                assert task.spent.tokens == 0
                store.away = False
                assert (await task.generate("a", solution=16)).solution == "so it is 42"
            scheduler.check()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [PostgresServer, RedisServer])
def test_while_the_server_hangs_no_call_leaves(kind: type[PostgresServer | RedisServer]) -> None:
    """A real one that takes connections and says nothing; what was under way is settled when it goes on."""
    try:
        server = kind()
    except NoServerError as error:
        pytest.skip(str(error))

    async def main() -> None:
        store, backend = open_store(server.url, timeout=3.0), ScriptedBackend(TALK, ttft=0.5)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            assert scheduler.durable is not None
            scheduler.durable.link.patience = 0.5
            async with scheduler.task(Caps(tokens=400)) as task:
                before = asyncio.ensure_future(task.generate("a", solution=16))
                await until(lambda: started(backend))
                server.hang()
                try:
                    with pytest.raises(StoreUnavailableError, match="no call leaves"):
                        await task.generate("b", solution=16)
                    assert (await before).solution == "so it is 42"
                    assert backend.meter.requests == 2  # both passes of the first
                finally:
                    server.go_on()
                scheduler.durable.link.patience = 60.0
                assert (await task.generate("c", solution=16)).solution == "so it is 42"
            scheduler.check()
        store = open_store(server.url)
        await store.check()
        assert (await level(store)).spent.tokens >= task.spent.tokens
        await store.aclose()

    with server:
        asyncio.run(main())


def test_a_settlement_is_written_when_the_store_is_back() -> None:
    """The caller does not wait for it."""

    async def main() -> None:
        store, backend = Moody(), ScriptedBackend(TALK, tpot=0.005)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            async with scheduler.task(Caps(tokens=400)) as task:
                call = asyncio.ensure_future(task.generate("a", solution=16))
                await until(lambda: started(backend))
                store.away = True
                await call
            await asyncio.sleep(0.4)
            store.away = False
            await until(lambda: nothing_held(store))
            assert (await level(store)).spent.tokens == task.spent.tokens

    asyncio.run(main())


def test_failing_open_sends_and_writes_it_down_afterwards() -> None:
    """Only where it was asked for."""

    async def main() -> None:
        store, backend = Moody(), ScriptedBackend(TALK)
        async with BudgetScheduler(
            backend, store=store, accounts=shared(4000), on_store_failure="open"
        ) as scheduler:
            assert scheduler.durable is not None
            scheduler.durable.link.patience = 0.2
            async with scheduler.task(Caps(tokens=400)) as task:
                store.away = True
                assert (await task.generate("a", solution=16)).solution == "so it is 42"
                store.away = False
            await until(lambda: charged(store))
            assert (await level(store)).spent.tokens == task.spent.tokens > 0
            assert (await level(store)).held == NOTHING

    asyncio.run(main())


def test_a_plain_with_on_a_thread_of_its_own_works() -> None:
    """No event loop needs to be there when the accounts are opened."""
    store, backend = MemoryStore(), ScriptedBackend(TALK)
    scheduler = BudgetScheduler(backend, store=store, accounts=shared(4000))
    with scheduler.task(Caps(tokens=400)) as task:
        assert asyncio.run(task.generate("a", solution=16)).solution == "so it is 42"
        assert asyncio.run(task.generate("b", solution=16)).solution == "so it is 42"
    asyncio.run(scheduler.aclose())
    root = scheduler.account()
    assert root is not None
    assert root.held == NOTHING


def test_an_account_whose_time_is_up_in_the_store_sets_a_deadline_here() -> None:
    """What the store says is left of its time is a deadline for calls of this process."""

    async def main() -> None:
        store, backend = MemoryStore(), ScriptedBackend(TALK, tpot=0.15)
        await store.open([Spec("acme", seconds=3.0)])
        scheduler = BudgetScheduler(backend, store=store, accounts="acme")
        async with scheduler, scheduler.task(Caps(tokens=1000)) as task:
            call = task.call("a b c", solution=16)
            await call.run()
            assert call.grant is not None
            assert call.grant.deadline is not None
            assert call.grant.deadline - call.grant.basis.now <= 3.0
            assert call.usage.thinking < 60

    asyncio.run(main())


def test_a_closed_account_takes_no_calls() -> None:
    """A key that was revoked, say."""

    async def main() -> None:
        store, backend = MemoryStore(), ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=store, accounts=shared(4000)) as scheduler:
            async with scheduler.task(Caps(tokens=400)) as task:
                await store.close("acme")
                with pytest.raises(TaskClosedError):
                    await task.generate("a", solution=16)
            assert backend.meter.requests == 0

    asyncio.run(main())


def test_an_account_that_exists_is_joined_by_its_name(tmp_path: Path) -> None:
    """Its caps are the store's; one that nobody opened is named, before anything is spent."""

    async def main() -> None:
        store = open_store(tmp_path / "spend.db")
        await store.open(shared(50))
        await store.aclose()
        backend = ScriptedBackend(TALK)
        async with BudgetScheduler(backend, store=tmp_path / "spend.db", accounts="acme/alice") as scheduler:
            assert scheduler.dispatcher.ledger.accounts["acme"].tokens == 50
        with pytest.raises(StoreError, match="acme/bob"):
            async with BudgetScheduler(backend, store=tmp_path / "spend.db", accounts="acme/bob"):
                pass

    asyncio.run(main())


def test_arguments_that_make_no_sense_are_refused() -> None:
    """With what to set."""
    with pytest.raises(ValueError, match="accounts="):
        BudgetScheduler(store=MemoryStore())
    with pytest.raises(ValueError, match="store="):
        BudgetScheduler(accounts=shared(1))
    with pytest.raises(ValueError, match="closed"):
        BudgetScheduler(store=MemoryStore(), accounts=shared(1), on_store_failure="ajar")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lease"):
        BudgetScheduler(store=MemoryStore(), accounts=shared(1), lease=0)


KILLED = """
    import asyncio, sys
    from elastic_agent import Caps, Generation, ScriptedBackend
    from elastic_agent.backends.scripted import Reply
    from elastic_agent.scheduler import BudgetScheduler
    from elastic_agent.scheduler.ledger.stores.protocol import Spec

    async def main():
        backend = ScriptedBackend(Reply(thinking="hm " * 60, solution="so it is 42"), tpot=0.05)
        accounts = [Spec("acme", tokens=4000), Spec("acme/alice")]
        async with BudgetScheduler(backend, store=sys.argv[1], accounts=accounts, lease=1.0) as scheduler:
            async with scheduler.task(Caps(tokens=400), final_solution=40) as task:
                async for _ in task.call("a", thinking=100, solution=16):
                    print("thinking", flush=True)

    asyncio.run(main())
"""


def test_what_a_killed_process_had_sent_is_charged_and_its_reserve_comes_back(tmp_path: Path) -> None:
    """kill -9 in mid-call: after the lease the store says the worst case, and nothing stays held."""
    path = tmp_path / "spend.db"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"thinking"
    child.send_signal(signal.SIGKILL)
    child.communicate()

    async def main() -> None:
        store = open_store(path)
        stored = await level(store)
        call = stored.held.tokens - 41  # beside the reserve
        assert call > 17
        await asyncio.sleep(1.1)
        ended = await store.expire()
        assert sorted(hold.state for hold in ended) == [HoldState.EXPIRED, HoldState.REFUNDED]
        stored = await level(store)
        assert stored.held == NOTHING
        assert stored.spent.tokens == call
        await store.check()
        await store.aclose()

    asyncio.run(main())


async def nothing_held(store: Store) -> bool:
    return (await level(store)).held == NOTHING


async def charged(store: Store) -> bool:
    return (await level(store)).spent != NOTHING


async def started(backend: ScriptedBackend) -> bool:
    return backend.meter.requests > 0


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what happens behind."""
    async with asyncio.timeout(20):
        while not await true():  # noqa: ASYNC110 (another thread makes it so)
            await asyncio.sleep(0.02)


def test_an_account_with_an_end_gives_holds_at_the_first_try() -> None:
    """Calls are planned to end before their account does: the store needs not refuse any of them."""

    async def main() -> None:
        store, backend = Moody(), ScriptedBackend(TALK)
        timed = [Spec("acme"), Spec("acme/task", tokens=1000, seconds=30.0)]
        scheduler = BudgetScheduler(backend, store=store, accounts=timed)
        async with scheduler, scheduler.task(Caps(tokens=1000, seconds=30.0)) as task:
            before = store.steps
            call = task.call("a", solution=16)
            await call.run()
            assert store.steps - before <= 4  # the reserve, the hold, the settling behind
            assert call.grant is not None
            assert call.grant.deadline is not None
            level = (await store.read_accounts("acme/task"))[0]
            assert call.grant.deadline <= asyncio.get_running_loop().time() + (level.left or 0.0)

    asyncio.run(main())


def test_calls_side_by_side_forget_no_reserve() -> None:
    """Each changes the task's reserve, final ones among them: none is held twice, none stays behind."""

    async def main() -> None:
        store = Moody()
        store.pause = 0.002
        async with BudgetScheduler(ScriptedBackend(TALK), store=store, accounts=shared(None)) as scheduler:
            for finals, tokens in enumerate(range(100, 2000, 150)):
                async with scheduler.task(Caps(tokens=tokens)) as task:
                    calls = [
                        task.generate(f"{'word ' * i}?", solution=8 + i, thinking=5, final=i % 6 == finals)
                        for i in range(12)
                    ]
                    for said in await asyncio.gather(*calls, return_exceptions=True):
                        assert isinstance(said, Generation | CapExceededError), repr(said)
        assert [hold.key for hold in await store.holds("acme/alice") if hold.state is HoldState.LIVE] == []

    asyncio.run(main())
