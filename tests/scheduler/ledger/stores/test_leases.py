"""A process that was stopped between its hold and its request: past the lease it sends nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.base import TokenChunk, TokenRequest
from elastic_agent.backends.replicas import Replicas
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import BackendUnavailableError, LeaseLostError, StoreUnavailableError
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.ledger import clocks
from elastic_agent.scheduler.ledger.accounts import Hold
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.durable.durable_ledger import DurableLedger
from elastic_agent.scheduler.ledger.durable.options import LEASE
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.memory import MemoryStore
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store, StoredHold
from elastic_agent.scheduler.runtime.external_call import ExternalCall, ExternalModel
from tests.scheduler.ledger.stores.places import START, Place

DAY = 86400.0
CAP = 500
TALK = Reply(thinking="hm " * 60, solution="so it is 42")


class Night:
    """A process is stopped for longer than a lease, over midnight; others spend what the new day has."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.others: Store | None = None
        self.slept = False
        monkeypatch.setattr(clocks, "elapsed", lambda: place.now)
        place.at(START + DAY - 1.5 * LEASE)

    async def stop(self, store: Store) -> None:
        """SIGSTOP, all that happens meanwhile, SIGCONT."""
        if self.slept:
            return
        self.slept = True
        others = store if self.place.url is None else self.place.open()
        self.place.at(START + DAY - 0.25 * LEASE)
        await others.expire()  # charged to the old day
        self.place.at(START + DAY + 1)
        held = await others.hold("others", "acme", Amount(CAP), lease=LEASE, dispatched=True)
        assert isinstance(held, StoredHold)
        await others.settle("others", Amount(CAP))
        if others is not store:
            await others.aclose()


class Stopped(ScriptedBackend):
    """Its process is stopped in the middle of the first pass."""

    def __init__(self, night: Night, store: Store) -> None:
        super().__init__(TALK)
        self.night, self.store = night, store

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        async for chunk in super().stream(request):
            await self.night.stop(self.store)
            yield chunk


async def started(place: Place, store: Store, backend: Any) -> BudgetScheduler:
    scheduler = BudgetScheduler(backend, store=store, accounts=[Spec("acme", tokens=CAP, window="day")])
    assert scheduler.durable is not None
    await scheduler.durable.open()
    return scheduler


def stopped_after_its_hold(durable: DurableLedger, night: Night) -> None:
    take = durable.take

    async def then_stop(hold: Hold, **more: Any) -> Any:
        taken = await take(hold, **more)
        await night.stop(durable.store)
        return taken

    durable.take = then_stop  # type: ignore[method-assign, assignment]


async def test_stopped_between_its_hold_and_its_first_request(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hold was charged to yesterday, today's cap is spent: the upstream hears nothing of it."""
    night, store, backend = Night(place, monkeypatch), place.open(), ScriptedBackend(TALK)
    scheduler = await started(place, store, backend)
    stopped_after_its_hold(scheduler.durable, night)  # type: ignore[arg-type]
    async with scheduler.task(Caps(tokens=400)) as task:
        with pytest.raises(LeaseLostError, match="nothing more was sent"):
            await task.generate("a", solution=16)
        assert task.spent.tokens == 0
    assert backend.meter.requests == 0
    scheduler.check()
    await store.check()
    await scheduler.aclose()


async def test_stopped_between_its_passes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thinking was sent in time, and is charged; the solution's pass is not sent."""
    night, store = Night(place, monkeypatch), place.open()
    backend = Stopped(night, store)
    scheduler = await started(place, store, backend)
    async with scheduler.task(Caps(tokens=400)) as task:
        with pytest.raises(LeaseLostError):
            await task.generate("a", solution=16, thinking=20)
    assert backend.meter.requests == 1
    await scheduler.aclose()


async def test_stopped_before_another_replica_is_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own retry is a request like any other."""
    night, store, good = Night(place, monkeypatch), place.open(), ScriptedBackend(TALK)

    class Refuses(ScriptedBackend):
        closed = False

        async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
            await night.stop(store)
            request.receipt.refused = True
            if not self.closed:
                raise BackendUnavailableError("away")
            yield  # never: it only makes this a generator

    replicas = Replicas([Refuses(TALK), good])
    scheduler = await started(place, store, replicas)
    async with scheduler.task(Caps(tokens=400)) as task:
        with pytest.raises(LeaseLostError):
            await task.generate("a", solution=16)
        assert task.spent.tokens == 0
    assert good.meter.requests == 0
    await scheduler.aclose()


async def test_stopped_before_somebody_elses_client_sends(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that another library makes (`guard`) asks the same question, and is refunded here."""
    night, store = Night(place, monkeypatch), place.open()
    scheduler = await started(place, store, ScriptedBackend(TALK))
    async with scheduler.task(Caps(tokens=400)) as task:
        call = ExternalCall(task, ExternalModel("gpt"), prompt=10, thinking=0, solution=100)
        await call.acquire()
        await call.may_send()
        await night.stop(store)
        with pytest.raises(LeaseLostError):
            await call.may_send()
        call.settle(None)
        assert task.spent.tokens == 0
    await scheduler.aclose()


async def test_a_short_stop_costs_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its lease a call goes on, without a word to the store."""
    store, backend = place.open(), ScriptedBackend(TALK)
    monkeypatch.setattr(clocks, "elapsed", lambda: place.now)
    scheduler = await started(place, store, backend)

    async def nap() -> None:
        place.at(place.now + 0.9 * LEASE)

    take = scheduler.durable.take  # type: ignore[union-attr]

    async def then_nap(*about: Any, **more: Any) -> Any:
        taken = await take(*about, **more)
        await nap()
        return taken

    scheduler.durable.take = then_nap  # type: ignore[method-assign, union-attr]
    async with scheduler.task(Caps(tokens=400)) as task:
        assert (await task.generate("a", solution=16)).solution == "so it is 42"
    await scheduler.aclose()


async def test_the_store_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the lease by our clock the store is asked: a hold that lives there is renewed, the call goes on.

    Where it can't be reached nothing is sent, unless calls were to fail open.
    """
    now = 1000.0
    monkeypatch.setattr(clocks, "elapsed", lambda: now)
    away = False

    class Asked(MemoryStore):
        async def renew(self, keys: Any, lease: float) -> set[str]:
            if away:
                raise StoreUnavailableError("away")
            return await super().renew(keys, lease)

    for failure in ("closed", "open"):
        away, backend = False, ScriptedBackend(TALK)
        scheduler = BudgetScheduler(
            backend,
            store=Asked(elapsed=lambda: 0.0),
            accounts=[Spec("acme")],
            on_store_failure=failure,  # type: ignore[arg-type]
        )
        async with scheduler, scheduler.task(Caps(tokens=4000)) as task:
            events = task.call("a", solution=16, thinking=20).stream()
            await anext(events)
            now += 2 * LEASE
            async for _ in events:
                pass
            events = task.call("b", solution=16, thinking=20).stream()
            await anext(events)
            now, away = now + 2 * LEASE, True
            if failure == "open":
                async for _ in events:
                    pass
            else:
                with pytest.raises(StoreUnavailableError, match="nothing more was sent"):
                    async for _ in events:
                        pass
            away = False


STOPPED = """
    import asyncio, sys
    from elastic_agent import Caps, ScriptedBackend
    from elastic_agent.backends.scripted import Reply
    from elastic_agent.scheduler import BudgetScheduler
    from elastic_agent.scheduler.ledger.stores.protocol import Spec

    async def main():
        backend = ScriptedBackend(Reply(thinking="hm " * 60, solution="so it is 42"))
        accounts = [Spec("acme", tokens=4000)]
        async with BudgetScheduler(backend, store=sys.argv[1], accounts=accounts, lease=1.0) as scheduler:
            async with scheduler.task(Caps(tokens=400)) as task:
                take = scheduler.durable.take
                async def slowly(*about, **more):
                    taken = await take(*about, **more)
                    print("held", flush=True)
                    sys.stdin.readline()
                    return taken
                scheduler.durable.take = slowly
                try:
                    await task.generate("a", solution=16)
                except Exception as error:
                    print(type(error).__name__, backend.meter.requests, flush=True)

    asyncio.run(main())
"""


def test_a_process_that_is_really_stopped(tmp_path: Path) -> None:
    """SIGSTOP for longer than the lease, with a clock that nobody set."""
    path = tmp_path / "ledger.db"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STOPPED), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"held"
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(1.3)

    async def sweep() -> None:
        store = open_store(path)
        assert len(await store.expire()) > 0
        await store.aclose()

    asyncio.run(sweep())
    child.stdin.write(b"go on\n")
    child.stdin.flush()
    os.kill(child.pid, signal.SIGCONT)
    assert child.stdout.readline().strip() == b"LeaseLostError 0"
    child.communicate()
