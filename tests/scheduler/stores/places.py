"""Where the contract's ledgers live: each store, really run, under a clock that the tests set.

A place is one ledger. `open` gives one more handle on it, as another process would; `at` moves the clock;
`clear` empties it. To add a store: a class here, and its line in `PLACES`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import psycopg
import redis as driver

from benchmarks._servers import PostgresServer, RedisServer
from elastic_agent.scheduler.stores import open_store, redis
from elastic_agent.scheduler.stores.base import Store
from elastic_agent.scheduler.stores.schema import MIGRATIONS

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
        self.now = START

    @abstractmethod
    def open(self, **options: Any) -> Store:
        """One more handle."""

    def at(self, now: float) -> None:
        """Set the clock, forwards or back."""
        self.now = now

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
        return open_store("memory://", clock=lambda: self.now, **options)

    def clear(self) -> None:
        self.now = START


class Sqlite(Place):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file = folder / "ledger.db"
        self.url = str(self.file)

    def open(self, **options: Any) -> Store:
        return open_store(self.file, clock=lambda: self.now, **options)

    def clear(self) -> None:
        self.now = START
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
        return open_store(self.server.url, **options)

    def at(self, now: float) -> None:
        super().at(now)
        self.run(f"UPDATE test_clock SET now = {now}")

    def clear(self) -> None:
        self.run(
            "TRUNCATE elastic_accounts, elastic_holds",
            f"UPDATE elastic_ledger SET version = {len(MIGRATIONS)}, latest = 0",
        )
        self.at(START)

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
        store = redis.RedisStore(self.server.url, **options)
        script = redis._SCRIPT.replace("read('TIME')", "{read('GET', 'test_clock'), 0}")
        assert script != redis._SCRIPT
        store._script = store._redis.register_script(script)
        return store

    def at(self, now: float) -> None:
        super().at(now)
        with driver.Redis.from_url(self.server.url) as client:
            client.set("test_clock", now)

    def clear(self) -> None:
        with driver.Redis.from_url(self.server.url) as client:
            client.flushall()
        self.at(START)

    def outdate(self) -> None:
        with driver.Redis.from_url(self.server.url) as client:
            client.hset("{elastic}", "version", 999)


PLACES: dict[str, type[Place]] = {"memory": Memory, "sqlite": Sqlite, "postgres": Postgres, "redis": Redis}
