"""The SQL stores' schema: made once, whoever comes first; brought up to date; never read from end to end."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import Any, NamedTuple

import psycopg
import pytest

from elastic_agent.errors import StoreVersionError
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.migrations import MIGRATIONS
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store, StoredHold
from elastic_agent.scheduler.ledger.stores.sqlite import SqliteRepository
from tests.scheduler.ledger.stores.places import START, Place, Postgres, Sqlite

# Imports everything, waits until all are that far, then opens the ledger.
OPENER = """
import asyncio, sys
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import Spec

async def main(url, name):
    store = open_store(url, timeout=60.0)
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open([Spec("org", tokens=100)])
    await store.hold(name, "org", Amount(1), lease=1000)
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


# A version of the library with one migration more, which fails if it runs twice.
LATER = """
from elastic_agent.scheduler.ledger.stores.migrations import MIGRATIONS, Migration

MIGRATIONS[max(MIGRATIONS) + 1] = Migration((
    "ALTER TABLE elastic_ledger ADD COLUMN note TEXT",
    "UPDATE elastic_ledger SET note = 'once'",
))
"""


@pytest.fixture
def fresh(place: Place) -> str:
    """Where there is no ledger yet: a file's name, or the URL of an empty database."""
    if isinstance(place, Postgres):
        place.run("DROP DATABASE IF EXISTS fresh", "CREATE DATABASE fresh")
        return place.server.url.rpartition("/")[0] + "/fresh"
    if isinstance(place, Sqlite):
        return str(place.file)
    pytest.skip("no SQL")


def all_at_once(url: str, opener: str = OPENER, processes: int = 8) -> None:
    """Several processes open a ledger in the same moment; each takes a hold."""
    command = [sys.executable, "-c", opener, url]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen([*command, f"k{i}"], text=True, **pipes) for i in range(processes)]
    for one in started:
        assert one.stdout is not None
        one.stdout.readline()
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [(one.communicate()[1], one.returncode) for one in started]
    assert said == [("", 0)] * processes


async def test_eight_processes_make_it_once(fresh: str) -> None:
    """Nobody fails, and nobody makes it a second time."""
    all_at_once(fresh)
    assert read(fresh, "SELECT version FROM elastic_ledger") == [(max(MIGRATIONS),)]
    store = open_store(fresh)
    await store.check()
    assert len(await store.holds("org")) == 8
    await store.aclose()


async def test_eight_processes_bring_it_up_to_date(fresh: str) -> None:
    """A ledger of the version before keeps what is in it; one process migrates, the others wait for it."""
    store = open_store(fresh)
    await store.open([Spec("org", tokens=100)])
    await store.hold("old", "org", Amount(9), lease=1000, dispatched=True)
    await store.settle("old", Amount(7))
    await store.aclose()
    all_at_once(fresh, LATER + OPENER)
    assert read(fresh, "SELECT version, note FROM elastic_ledger") == [(max(MIGRATIONS) + 1, "once")]
    store = open_store(fresh)
    with pytest.raises(StoreVersionError, match="upgrade"):
        await store.check()
    run(fresh, f"UPDATE elastic_ledger SET version = {max(MIGRATIONS)}")
    await store.check()
    (org,) = await store.read_accounts("org")
    assert (org.spent, org.held) == (Amount(7), Amount(8))
    await store.aclose()


async def test_a_ledger_from_before_the_first_migration_is_refused(fresh: str) -> None:
    """With what to do, and untouched."""
    store = open_store(fresh)
    await store.open([Spec("org")])
    await store.aclose()
    run(fresh, f"UPDATE elastic_ledger SET version = {min(MIGRATIONS) - 1}")
    store = open_store(fresh)
    with pytest.raises(StoreVersionError, match="start a new ledger"):
        await store.check()
    assert read(fresh, "SELECT version FROM elastic_ledger") == [(min(MIGRATIONS) - 1,)]
    await store.aclose()


# ------------------------------------------------------------------------------------------------- at scale

ACCOUNTS, HOLDS = 10_000, 100_000
NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {HOLDS})"
FILL = (
    f"""{NUMBERS} INSERT INTO elastic_accounts
        SELECT 'org/' || i, 'org', 'org', NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, i % 2 = 0,
            CASE WHEN i % 2 = 0 THEN {START} END
        FROM n WHERE i <= {ACCOUNTS}""",
    f"""{NUMBERS} INSERT INTO elastic_holds
        SELECT 'old-' || i, 'org/' || (i % {ACCOUNTS} + 1), 0, 0, {START}, false, 'settled', 0, 0, {START}
        FROM n""",
)
"""Half of the accounts are closed; all of the holds have ended."""


async def every_step(store: Store, place: Place, name: str = "new") -> None:
    """Each of the protocol but `check` and `holds()`, which are about everything."""
    path = [Spec("org"), Spec(name), Spec(f"{name}/sub")]
    await store.open(path)
    await store.set_caps(name, tokens=100, nano=None)
    keys = [f"{name}-{i}" for i in range(9)]
    for key in keys:
        for _ in range(2):
            assert isinstance(await store.hold(key, f"{name}/sub", Amount(1), lease=10), StoredHold)
    assert await store.dispatch(keys[0])
    await store.settle(keys[0], Amount(1))
    await store.refund(keys[1])
    await store.hold(keys[2] + "-final", f"{name}/sub", Amount(1), lease=10, instead_of=keys[2])
    assert await store.renew(keys[:5], 1000) == set(keys[:3])
    place.at(place.now + 20)
    assert {hold.key for hold in await store.expire()} == {*keys[5:], keys[2] + "-final"}
    assert len(await store.read_accounts(f"{name}/sub")) == 3
    assert len(await store.holds(f"{name}/sub")) == 10
    await store.close(name)


async def test_no_step_on_sqlite_reads_a_whole_table(started: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own account of every statement that the steps run."""
    if not isinstance(started, Sqlite):
        pytest.skip("PostgreSQL has its own test below")
    started.clear()
    store = started.open(retention=1000)
    await store.open([Spec("org")])
    with closing(sqlite3.connect(started.file)) as file, file:
        for statement in FILL:
            file.execute(statement)
    asked: dict[str, Any] = {}
    run = SqliteRepository.run

    def noted(repository: SqliteRepository, statement: str, values: Any = None) -> list[Any]:
        asked[statement] = values[0] if isinstance(values, list) else values
        return run(repository, statement, values)

    monkeypatch.setattr(SqliteRepository, "run", noted)
    await every_step(store, started)
    started.at(START + 1000)
    await store.expire()
    await store.aclose()
    assert read(str(started.file), "SELECT count(*) FROM elastic_holds") == [(7,)]
    assert any("DELETE FROM elastic_accounts" in statement for statement in asked)
    with closing(sqlite3.connect(started.file)) as file:
        for statement, values in asked.items():
            plan = [row[3] for row in file.execute(f"EXPLAIN QUERY PLAN {statement}", values or {})]
            scans = [line for line in plan if line.startswith("SCAN") and not line.endswith(SMALL)]
            assert scans == [], (statement, plan)


SMALL = ("up", "down", "elastic_ledger", "CONSTANT ROW")
"""What may be read whole: a path, what is open below an account, one row."""


async def test_no_step_on_postgres_reads_a_whole_table(started: Place) -> None:
    """By the server's statistics, which see inside of functions, too."""
    if not isinstance(started, Postgres):
        pytest.skip("SQLite has its own test above")
    started.clear()
    store = started.open()
    await store.open([Spec("org")])
    await store.aclose()
    started.run(*FILL, "VACUUM ANALYZE elastic_accounts", "VACUUM ANALYZE elastic_holds")
    before = reads(started)
    store = started.open(retention=1000)
    await every_step(store, started)
    await store.aclose()  # its connections bring in what they have counted
    steps = reads(started)
    started.at(START + 1000)
    store = started.open(retention=1000)
    await store.expire()
    await store.aclose()
    assert read(started.server.url, "SELECT count(*) FROM elastic_holds") == [(7,)]
    forgotten = reads(started)
    assert steps.scans == forgotten.scans == before.scans
    assert steps.rows - before.rows < 1_000
    assert forgotten.rows - steps.rows < 5 * (ACCOUNTS + HOLDS)


class Reads(NamedTuple):
    """Of accounts and holds: how often they were read from end to end, and rows that indexes led to."""

    scans: int
    rows: int


def reads(place: Postgres) -> Reads:
    """So far."""
    query = """SELECT sum(seq_scan)::int, sum(idx_tup_fetch)::int FROM pg_stat_user_tables
        WHERE relname IN ('elastic_accounts', 'elastic_holds')"""
    return Reads(*read(place.server.url, query)[0])


def run(url: str, statement: str) -> None:
    """A statement, past the store."""
    connected: Any = psycopg.connect(url) if "://" in url else sqlite3.connect(url)
    with closing(connected) as connection, connection:
        connection.execute(statement)


def read(url: str, query: str) -> list[Any]:
    """Rows, past the store."""
    if "://" not in url:
        with closing(sqlite3.connect(url)) as file:
            return file.execute(query).fetchall()
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()
