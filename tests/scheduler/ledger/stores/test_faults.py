"""What a store does when it is full, locked, gone, or its process is killed."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pytest

from elastic_agent.errors import StoreError, StoreUnavailableError
from elastic_agent.scheduler.ledger import clocks
from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import Spec, StoredHold
from tests.scheduler.ledger.stores.places import Place, Postgres

T = TypeVar("T")

# Holds and settles 32 at a time until nothing is left, saying what was acknowledged.
SPENDER = """
import asyncio, sys
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.amounts import Shortage
from elastic_agent.scheduler.ledger.stores.protocol import Spec

async def main(url, name):
    store = open_store(url, timeout=60.0)
    await store.open([Spec("org", tokens=900)])
    async def task(n):
        for i in range(1000):
            key = f"{name}-{n}-{i}"
            if isinstance(await store.hold(key, "org", Amount(7), lease=1000), Shortage):
                return
            print(key, flush=True)
            await store.settle(key, Amount(3))
    await asyncio.gather(*map(task, range(32)))
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def spender(place: Place, name: str) -> subprocess.Popen[str]:
    assert place.url is not None
    command = [sys.executable, "-c", SPENDER, place.url, name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def shared(place: Place) -> Place:
    if place.url is None:
        pytest.skip("memory is one process's own")
    place.at(time.time())  # as in the processes beside us
    place.ticks = clocks.elapsed()
    return place


async def test_two_processes_with_32_tasks_each_never_overspend(shared: Place) -> None:
    """Every acknowledged hold is there, every charge is counted, and the cap holds to the token."""
    both = [spender(shared, name) for name in "ab"]
    said = [key for one in both for key in one.communicate(timeout=100)[0].split()]
    assert [one.returncode for one in both] == [0, 0]
    store = shared.open()
    await store.check()
    (org,) = await store.read_accounts("org")
    assert sorted(said) == sorted(hold.key for hold in await store.holds("org"))
    assert org.spent == Amount(3 * len(said))
    assert org.held == Amount()
    assert 900 - 64 * 7 <= org.spent.tokens <= 900
    await store.aclose()


async def test_what_was_acknowledged_survives_kill_9(shared: Place) -> None:
    """Whatever it was doing: no half step, nothing lost."""
    one = spender(shared, "a")
    assert one.stdout is not None
    said = [one.stdout.readline().strip() for _ in range(40)]
    one.kill()
    said += one.communicate()[0].split("\n")[:-1]  # a last line may be cut off
    store = shared.open()
    await store.check()
    assert set(said) <= {hold.key for hold in await store.holds("org")}
    await store.aclose()


async def test_a_server_may_be_away_for_a_while(shared: Place) -> None:
    """Unavailable while it is down, and by itself again when it is back, with all that it acknowledged."""
    if shared.server is None:
        pytest.skip("a file has no server")
    store = shared.open(timeout=20.0)
    await store.open([Spec("org", tokens=100)])
    held = await store.hold("k", "org", Amount(10), lease=100)
    shared.server.kill()
    try:
        with pytest.raises(StoreUnavailableError):
            await store.settle("k", Amount(5))
    finally:
        shared.server.start()
    assert await store.hold("k", "org", Amount(10), lease=100) == held
    assert (await store.settle("k", Amount(5))).charged == Amount(5)
    await store.check()
    await store.aclose()


def test_a_forked_process_has_connections_of_its_own(shared: Place) -> None:
    """A handle that was used before the fork works in both processes, and neither harms the other."""
    store = shared.open()

    async def spend(name: str) -> None:
        for i in range(20):
            await store.hold(f"{name}{i}", "org", Amount(2), lease=1000, dispatched=True)
            await store.settle(f"{name}{i}", Amount(1))
            await store.read_accounts("org")

    async def in_child() -> None:
        await spend("child")
        await store.aclose()

    async def main() -> None:
        await store.open([Spec("org", tokens=1000)])
        await spend("before")
        child = get_context("fork").Process(target=lambda: asyncio.run(in_child()))
        child.start()
        await spend("beside")
        await asyncio.to_thread(child.join, 30)
        assert child.exitcode == 0
        await spend("after")
        await store.check()
        (org,) = await store.read_accounts("org")
        assert (org.spent, org.held) == (Amount(80), Amount())
        await store.aclose()

    asyncio.run(main())


async def test_a_server_may_hang_for_a_while(shared: Place) -> None:
    """It takes connections and says nothing: each step ends by itself, as many as there are, and so does a
    handle that is closed meanwhile; when it goes on, so does the store, and the accounts are right.
    """
    if shared.server is None:
        pytest.skip("a file has no server")
    store, other = shared.open(timeout=3.0), shared.open(timeout=3.0)
    await store.open([Spec("org", tokens=100)])
    for each in (store, other):  # until all of its connections are there
        await again(lambda each=each: asyncio.gather(*(each.read_accounts("org") for _ in range(20))))
    held = await again(lambda: store.hold("k", "org", Amount(10), lease=1000))
    shared.server.hang()
    try:
        async with asyncio.timeout(120):
            for first in (0, 20):
                steps = [store.hold(f"{i}", "org", Amount(1), lease=1000) for i in range(first, first + 20)]
                said = await asyncio.gather(*steps, return_exceptions=True)
                assert {type(answer) for answer in said} == {StoreUnavailableError}
            with pytest.raises(StoreUnavailableError):
                await other.read_accounts("org")
            await other.aclose()
            new = shared.open(timeout=3.0)
            with pytest.raises(StoreUnavailableError):
                await new.read_accounts("org")
            await new.aclose()
    finally:
        shared.server.go_on()
    assert await again(lambda: store.hold("k", "org", Amount(10), lease=1000)) == held
    assert (await store.settle("k", Amount(5))).state is HoldState.SETTLED
    await store.check()
    known = {hold.key for hold in await store.holds("org")}
    assert known <= {"k", *map(str, range(40))}
    assert (await store.read_accounts("org"))[0].held == Amount(len(known) - 1)
    await store.aclose()


async def test_a_connection_that_breaks_at_its_first_word(
    shared: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's is made anew for the next step, whatever the first one came to."""
    if not isinstance(shared, Postgres):
        pytest.skip("the others have one connection from the start")
    store: Any = shared.open()
    await store.open([Spec("org", tokens=100)])
    connect = store._connections.connect

    def broken() -> Any:
        monkeypatch.undo()
        line = connect()
        line.close()
        return line

    monkeypatch.setattr(store._connections, "connect", broken)
    with pytest.raises(StoreUnavailableError):
        await store.hold("k", "org", Amount(1), lease=10)
    assert isinstance(await store.hold("k", "org", Amount(1), lease=10), StoredHold)
    await store.aclose()


async def again(step: Callable[[], Awaitable[T]]) -> T:
    """A step, until the store can be reached."""
    while True:
        try:
            return await step()
        except StoreUnavailableError:
            continue


async def test_a_full_disk_is_unavailable_and_heals(tmp_path: Path) -> None:
    """SQLite says so, nothing is torn, and there is room again once somebody made it."""
    store = open_store(tmp_path / "ledger.db")
    await store.open([Spec("org", tokens=10**6)])
    connection = store._connection  # type: ignore[attr-defined]
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    steps = [store.hold(f"{n:0400}", "org", Amount(1), lease=1) for n in range(200)]
    refused = [
        answer
        for answer in await asyncio.gather(*steps, return_exceptions=True)
        if isinstance(answer, Exception)
    ]
    assert refused
    assert all(
        isinstance(error, StoreUnavailableError) and "make room" in str(error) for error in refused[:1]
    )
    await store.check()  # opened anew, so without the limit
    assert isinstance(await store.hold("after", "org", Amount(1), lease=1), StoredHold)
    await store.check()
    await store.aclose()


async def test_a_file_that_is_locked_for_too_long(tmp_path: Path) -> None:
    """The step fails in time with what to do, and works when the other is done."""
    store = open_store(tmp_path / "ledger.db", timeout=0.05)
    await store.open([Spec("org")])
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="timeout"):
            await store.hold("k", "org", Amount(1), lease=1)
        other.execute("ROLLBACK")
    other.close()
    assert isinstance(await store.hold("k", "org", Amount(1), lease=1), StoredHold)
    await store.aclose()


async def test_one_bad_step_does_not_spoil_those_beside_it(tmp_path: Path) -> None:
    """Steps that share a transaction each get their own answer."""
    store = open_store(tmp_path / "ledger.db")
    await store.open([Spec("org", tokens=100)])
    steps = [store.hold(f"k{n}", "org" if n % 5 else "nobody", Amount(1), lease=1) for n in range(20)]
    answers = await asyncio.gather(*steps, return_exceptions=True)
    assert [isinstance(answer, StoreError) for answer in answers] == [n % 5 == 0 for n in range(20)]
    assert (await store.read_accounts("org"))[0].held == Amount(16)
    await store.aclose()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("mongodb://host/db", "no store is called 'mongodb'"),
        ("postgre://host/db", "did you mean postgres"),
        ("sqlite://", "memory://"),
    ],
)
def test_a_place_that_cannot_be(where: str, says: str) -> None:
    """The error says what there is."""
    with pytest.raises(StoreError, match=says):
        open_store(where)


@pytest.mark.parametrize(("url", "module", "extra"), [("postgresql://h/d", "psycopg", "postgres")])
def test_a_missing_driver_names_its_extra(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What to install, not a traceback about a module."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StoreError, match=rf"elastic-agent\[{extra}\]"):
        open_store(url)


async def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    """Neither overwritten nor taken for one."""
    (tmp_path / "text").write_text("not a database, but a long enough text to look at " * 99)
    for where, kind in ((tmp_path / "text", StoreError), (tmp_path / "no" / "db", StoreUnavailableError)):
        store = open_store(where)
        with pytest.raises(kind, match=str(where)):
            await store.open([Spec("org")])
        await store.aclose()
