"""Tables beside the ledger: in its SQLite file, PostgreSQL database or Redis, or in this process' memory.

Here are the connection, the steps and their errors; what a table holds is for its own module to say. All
methods block, and may be called from any thread.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from elastic_agent.credentials import make_private
from elastic_agent.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from redis import Redis

Run = Callable[[str, dict[str, Any]], Any]
"""Runs one SQL statement, with `:names` for its values, and returns the driver's cursor."""


def in_redis(where: str) -> bool:
    """Whether a ledger's place is a Redis."""
    return where.partition("://")[0] in ("redis", "rediss", "valkey")


class SqlTable(ABC):
    """A table in SQLite or PostgreSQL, made when it is first used.

    Each step has a connection of its own; in memory all steps share one, since it is the database. An SQLite
    file can be read by its owner alone.

    Args:
        where: the ledger's place, as for `open_store`.

    Raises:
        StoreError: no table can be kept in such a place.
    """

    what: ClassVar[str]
    """What the table holds, for the message when it can't be reached."""

    def __init__(self, where: str) -> None:
        self._place: Path | str | None = None
        self._made = False
        scheme, separator, rest = where.partition("://")
        if scheme == "memory":
            self._memory, self._lock = sqlite3.connect(":memory:", check_same_thread=False), Lock()
        elif scheme == "sqlite" or not separator:
            self._place = Path(rest.removeprefix("/") if separator else where)
        elif scheme in ("postgresql", "postgres"):
            self._place = f"postgresql://{rest}"
        else:
            raise StoreError(f"{self.what} can't be kept in a {scheme}:// ledger")

    @abstractmethod
    def _definition(self, *, postgres: bool) -> Sequence[str]:
        """The statements that make the table; they do nothing where the table exists."""

    def close(self) -> None:
        """End a table in memory; the others have no open connection between two steps."""
        self._made = False
        if self._place is None:
            self._memory.close()

    @contextmanager
    def _step(self) -> Iterator[Run]:
        """Statements in one transaction.

        Raises:
            StoreUnavailableError: the database can't be reached.
        """
        errors: type[Exception] = sqlite3.Error
        if isinstance(self._place, str):
            import psycopg

            errors = psycopg.Error
        try:
            with self._connection() as connection, connection:
                run = _runner(connection, self._place)
                if not self._made:
                    for statement in self._definition(postgres=isinstance(self._place, str)):
                        run(statement, {})
                    self._made = True
                yield run
        except errors as error:
            self._made = False
            raise _unavailable(self.what, error, "the ledger's database") from error

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self._place is None:
            with self._lock:
                yield self._memory
            return
        if isinstance(self._place, str):
            import psycopg

            connection: Any = psycopg.connect(self._place)
        else:
            if not self._made:
                with suppress(OSError):  # SQLite says what is wrong with the file
                    make_private(self._place)
            connection = sqlite3.connect(self._place.absolute())
        with closing(connection):
            yield connection


def _runner(connection: Any, place: Path | str | None) -> Run:
    if not isinstance(place, str):
        return lambda sql, values: connection.execute(sql, values)
    from elastic_agent.scheduler.ledger.stores.postgres_connections import pyformat

    return lambda sql, values: connection.execute(pyformat(sql), values)


class RedisTable:
    """Keys of the gateway's own in a Redis.

    Args:
        where: the ledger's place, as for `open_store`.
    """

    what: ClassVar[str]
    """What the table holds, for the message when it can't be reached."""

    def __init__(self, where: str) -> None:
        import redis

        self._error: type[Exception] = redis.RedisError
        self._redis = redis.Redis.from_url(where.replace("valkey://", "redis://", 1), decode_responses=True)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @contextmanager
    def _step(self) -> Iterator[Redis]:
        """Commands, one after the other: they are no transaction.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        try:
            yield self._redis
        except self._error as error:
            raise _unavailable(self.what, error, "Redis") from error


def _unavailable(what: str, error: Exception, place: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the {what} can't be reached ({type(error).__name__}): is {place} there?")
