"""A store that forgot, on every kind: a process that knows more than the store stops, and says so."""

from __future__ import annotations

import asyncio
import logging
import shutil

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import StoreForgotError
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.durable.acknowledged import Acknowledged
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store, StoredAccount
from tests.scheduler.ledger.stores.places import Place, Sqlite

CAP = 500
PATH = [Spec("acme", tokens=CAP), Spec("acme/alice")]


@pytest.fixture
def lasting(place: Place) -> Place:
    if place.url is None:
        pytest.skip("memory is one process's: what it forgets goes with it")
    return place


async def scheduler_on(store: Store, backend: ScriptedBackend, lease: float = 60.0) -> BudgetScheduler:
    scheduler = BudgetScheduler(backend, store=store, accounts=PATH, lease=lease)
    assert scheduler.durable is not None
    await scheduler.durable.open()
    return scheduler


async def spend(scheduler: BudgetScheduler) -> None:
    """One call, settled in the store."""
    durable = scheduler.durable
    assert durable is not None
    async with scheduler.task(Caps(tokens=400)) as task:
        await task.generate("a", solution=16, thinking=40)
    async with asyncio.timeout(20):
        while durable.holds.live or durable.link.busy:  # noqa: ASYNC110 (other threads work it off)
            await asyncio.sleep(0.01)


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend(Reply(thinking="hm " * 60, solution="so it is 42"))


async def refused(scheduler: BudgetScheduler, backend: ScriptedBackend) -> None:
    """No call leaves any more, nor after that."""
    asked = backend.meter.requests
    for _ in range(2):
        async with scheduler.task(Caps(tokens=400)) as task:
            with pytest.raises(StoreForgotError):
                await task.generate("b", solution=16, thinking=40)
    assert backend.meter.requests == asked


async def test_an_emptied_store_is_noticed_at_the_next_step(
    lasting: Place, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where somebody else has begun anew in it: the old process stops, with an alarm."""
    scheduler = await scheduler_on(lasting.open(), backend)
    await spend(scheduler)
    lasting.forget()
    fresh = lasting.open()
    await fresh.open(PATH)
    with caplog.at_level(logging.CRITICAL):
        await refused(scheduler, backend)
    assert "forgot" in caplog.text
    assert scheduler.durable is not None
    with pytest.raises(StoreForgotError):
        await scheduler.durable.store.read_accounts("acme")
    assert (await fresh.read_accounts("acme"))[0].spent == Amount()
    await fresh.aclose()
    await scheduler.aclose()


async def test_an_older_state_is_noticed(
    lasting: Place, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Its number is the same, and it says less than it has acknowledged: seen when leases are renewed."""
    scheduler = await scheduler_on(lasting.open(), backend, lease=0.6)
    put_back = lasting.saved()
    await spend(scheduler)
    put_back()
    with caplog.at_level(logging.CRITICAL):
        async with asyncio.timeout(20):
            while "forgot" not in caplog.text:  # noqa: ASYNC110 (another thread looks)
                await asyncio.sleep(0.05)
    await refused(scheduler, backend)
    await scheduler.aclose()


async def test_a_store_that_was_put_back_while_it_was_away_is_looked_at_first(
    lasting: Place, backend: ScriptedBackend
) -> None:
    """After each connection the accounts are looked up before a call leaves: no call on an older state."""
    scheduler = await scheduler_on(lasting.open(), backend)
    put_back = lasting.saved()
    await spend(scheduler)
    if lasting.server is not None:
        put_back()
        lasting.server.kill()
        lasting.server.start()
    else:
        put_back()
    await refused(scheduler, backend)
    await scheduler.aclose()


async def test_a_hold_that_was_forgotten_is_noticed(lasting: Place, backend: ScriptedBackend) -> None:
    """A running call holds what the store has never heard of: others could spend it."""
    backend.tpot = 0.02
    scheduler = await scheduler_on(lasting.open(), backend, lease=0.6)
    put_back = lasting.saved()
    async with scheduler.task(Caps(tokens=400)) as task:
        running = asyncio.ensure_future(task.generate("a", solution=16, thinking=40))
        while not backend.meter.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        put_back()
        with pytest.raises(StoreForgotError):
            await running
    await refused(scheduler, backend)
    await scheduler.aclose()


async def test_what_is_as_it_was_raises_no_alarm(lasting: Place, backend: ScriptedBackend) -> None:
    """A restart, and a file that was copied to where it was: nothing is missing, and all goes on."""
    scheduler = await scheduler_on(lasting.open(), backend)
    await spend(scheduler)
    if lasting.server is not None:
        lasting.server.kill()
        lasting.server.start()
    elif isinstance(lasting, Sqlite):
        copy = lasting.file.with_name("copy.db")
        store = scheduler.durable.store  # type: ignore[union-attr]
        store._disconnect()  # type: ignore[attr-defined]  # so that the WAL is in the file
        shutil.copy(lasting.file, copy)
        copy.rename(lasting.file)
    async with scheduler.task(Caps(tokens=400)) as task:
        assert (await task.generate("b", solution=16, thinking=10)).solution == "so it is 42"
    await scheduler.aclose()


def test_what_was_acknowledged() -> None:
    """The least that accounts may say, from looks and from charges that surely came after them."""

    def accounts(spent: int, held: int = 0, past: int = 0) -> list[StoredAccount]:
        return [StoredAccount(Spec("acme"), Amount(spent), Amount(held), None, past=Amount(past))]

    def look(found: list[StoredAccount], held: list[int] | None = None) -> None:
        known.looking()
        known.looked(found, [Amount(tokens) for tokens in held or []])

    known = Acknowledged()
    look(accounts(100))
    sent = known.sent
    known.charged(Amount(10), sent)
    look(accounts(110))
    look(accounts(0, past=110))  # a new window
    look(accounts(5, 30, past=110), [20, 10])
    look(accounts(35, 0, past=110), [20, 10])  # they ran out, and were charged
    before, _ = known.sent, known.looking()
    during = known.sent
    known.looked(accounts(40, past=110))
    for sent in (before, during):  # it may be part of that look
        known.charged(Amount(5), sent)
    look(accounts(40, past=110))
    known.looking()
    known.looked(None)  # the store was away
    with pytest.raises(StoreForgotError, match="150 tokens"):
        look(accounts(39, past=110))
    with pytest.raises(StoreForgotError, match="charged or held"):
        look(accounts(40, 19, past=110), [20])
