"""Where the contract's ledgers live: each store, really run, under a clock that the tests set.

A place is one ledger. `open` gives one more handle on it, as another process would; `at` moves the clock;
`clear` empties it. To add a store: a class here, and its line in `PLACES`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import redis as driver

from benchmarks._servers import PostgresServer, RedisServer
from elastic_agent.scheduler.ledger.stores import open_store, redis
from elastic_agent.scheduler.ledger.stores.migrations import MIGRATIONS
from elastic_agent.scheduler.ledger.stores.protocol import Store

START = 1_793_404_800.0
"""When tests begin: 2026-10-31, 00:00 UTC, so that the month ends with the day."""


class Place(ABC):
    """One ledger.

    Attributes:
        url: what another process opens it by; None: it can't.
        server: what it lives on, if that can be stopped.
    """

    url: str | None = None
    server: PostgresServer | RedisServer | None = None

    def __init__(self, folder: Path) -> None:
        self.now = self.wall = START
        self.ticks = 0.0

    @property
    def clocks(self) -> dict[str, Any]:
        """Those of a handle's own machine: `ticks` is the one that nobody sets."""
        return {"clock": lambda: self.wall, "elapsed": lambda: self.ticks}

    @abstractmethod
    def open(self, **options: Any) -> Store:
        """One more handle."""

    def at(self, now: float) -> None:
        """Time passes, until the clocks say this."""
        self.ticks += max(0.0, now - self.now)
        self.set(now)
        self.wall = now

    def jump(self, seconds: float, *, everywhere: bool = False) -> None:
        """The store's clock is set, ahead or back, while no time passes.

        Args:
            everywhere: so are those of all machines. (A file has no other clock than these.)
        """
        self.set(self.now + seconds)
        if everywhere:
            self.wall += seconds

    def set(self, now: float) -> None:
        """The store's clock says this."""
        self.now = now

    def forget(self) -> None:
        """Empty the ledger under the handles that are open."""
        raise NotImplementedError

    def saved(self) -> Callable[[], None]:
        """The ledger as it is; call what comes back to put it back, whoever has it open."""
        raise NotImplementedError

    @abstractmethod
    def clear(self) -> None:
        """Empty the ledger, set the clock to the start. No handle is open."""

    def outdate(self) -> None:
        """Mark the ledger as written by a newer version of the library."""
        raise NotImplementedError

    def remove(self) -> None:
        """Stop what was started."""
        if self.server is not None:
            self.server.remove()


class Memory(Place):
    def open(self, **options: Any) -> Store:
        return open_store("memory://", **{**self.clocks, "clock": lambda: self.now}, **options)

    def clear(self) -> None:
        self.now = self.wall = START
        self.ticks = 0.0


class Sqlite(Place):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file = folder / "ledger.db"
        self.url = str(self.file)

    def open(self, **options: Any) -> Store:
        return open_store(self.file, **{**self.clocks, "clock": lambda: self.now}, **options)

    def forget(self) -> None:
        for file in self.file.parent.glob("ledger.db*"):
            file.unlink()

    def saved(self) -> Callable[[], None]:
        copy = self.file.with_name("copy.db")
        with sqlite3.connect(self.file) as here, sqlite3.connect(copy) as there:
            here.backup(there)
        here.close()
        there.close()

        def put_back() -> None:
            self.forget()
            copy.rename(self.file)

        return put_back

    def clear(self) -> None:
        self.now = self.wall = START
        self.ticks = 0.0
        for file in self.file.parent.glob("ledger.db*"):
            file.unlink()

    def outdate(self) -> None:
        with sqlite3.connect(self.file) as connection:
            connection.execute("UPDATE elastic_ledger SET version = 999")
        connection.close()


class Postgres(Place):
    """The server's clock is one function of the schema, which reads a table here."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = PostgresServer("fsync=off")  # a killed server still finds all in the kernel's memory
        self.server.start()
        self.url = self.server.url
        asyncio.run(self._migrate())
        self.run(
            "CREATE TABLE test_clock (now double precision)",
            "INSERT INTO test_clock VALUES (0)",
            "CREATE OR REPLACE FUNCTION elastic_clock() RETURNS double precision LANGUAGE sql VOLATILE AS "
            "'SELECT now FROM test_clock'",
        )

    def open(self, **options: Any) -> Store:
        return open_store(self.server.url, **self.clocks, **options)

    def forget(self) -> None:
        self.run(
            "TRUNCATE elastic_accounts, elastic_holds",
            "UPDATE elastic_ledger SET latest = 0, generation = 'another'",
        )

    def saved(self) -> Callable[[], None]:
        tables = "elastic_accounts", "elastic_holds", "elastic_ledger"
        for table in tables:
            self.run(f"DROP TABLE IF EXISTS saved_{table}", f"CREATE TABLE saved_{table} AS TABLE {table}")

        def put_back() -> None:
            for table in tables:
                self.run(f"TRUNCATE {table}", f"INSERT INTO {table} TABLE saved_{table}")

        return put_back

    def set(self, now: float) -> None:
        super().set(now)
        self.run(f"UPDATE test_clock SET now = {now}")

    def clear(self) -> None:
        self.run(
            "TRUNCATE elastic_accounts, elastic_holds",
            f"UPDATE elastic_ledger SET version = {max(MIGRATIONS)}, latest = 0, boot = '', ahead = NULL",
        )
        self.at(START)
        self.ticks = 0.0

    def outdate(self) -> None:
        self.run("UPDATE elastic_ledger SET version = 999")

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    async def _migrate(self) -> None:
        store = self.open()
        await store.check()
        await store.aclose()


class Redis(Place):
    """The script's clock is one command, which reads a key here."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = RedisServer("--appendfsync", "no")
        self.server.start()
        self.url = self.server.url

    def open(self, **options: Any) -> Store:
        store = redis.RedisStore(self.server.url, **self.clocks, **options)
        script = redis._SCRIPT.replace("read('TIME')", "{read('GET', 'test_clock'), 0}")
        assert script != redis._SCRIPT
        store._script = store._redis.register_script(script)
        return store

    def set(self, now: float) -> None:
        super().set(now)
        with driver.Redis.from_url(self.server.url) as client:
            client.set("test_clock", now)

    def forget(self) -> None:
        with driver.Redis.from_url(self.server.url) as client:
            client.flushall()
        self.set(self.now)

    def saved(self) -> Callable[[], None]:
        with driver.Redis.from_url(self.server.url) as client:
            kept = {key: client.dump(key) for key in client.scan_iter()}

        def put_back() -> None:
            with driver.Redis.from_url(self.server.url) as client:
                client.flushall()
                for key, value in kept.items():
                    client.restore(key, 0, value)
            self.set(self.now)

        return put_back

    def clear(self) -> None:
        with driver.Redis.from_url(self.server.url) as client:
            client.flushall()
        self.at(START)
        self.ticks = 0.0

    def outdate(self) -> None:
        with driver.Redis.from_url(self.server.url) as client:
            client.hset("{elastic}", "version", 999)


PLACES: dict[str, type[Place]] = {"memory": Memory, "sqlite": Sqlite, "postgres": Postgres, "redis": Redis}
