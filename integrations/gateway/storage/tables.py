"""Tables beside the ledger: in this process, or in the ledger's SQLite file, PostgreSQL database or Redis.

Here are the connection, the steps and their errors; what a table holds is for its own module to say. All
methods block, and may be called from any thread.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from elastic_agent.credentials import make_private
from elastic_agent.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from redis import Redis

Run = Callable[[str, dict[str, Any]], Any]
"""Runs one SQL statement, with `:names` for its values, and returns the driver's cursor."""


def table_kind(where: str, what: str) -> tuple[Literal["memory", "sql", "redis"], Path | str]:
    """How a table is kept in a ledger's place: its kind, and its SQLite file or its URL.

    Args:
        where: the ledger's place, as for `open_store`.
        what: what the table holds, for the message where the place is unknown.

    Raises:
        StoreError: no table can be kept in such a place.
    """
    scheme, separator, rest = where.partition("://")
    if scheme == "memory":
        return "memory", where
    if scheme == "sqlite" or not separator:
        return "sql", Path(rest.removeprefix("/") if separator else where)
    if scheme in ("postgresql", "postgres"):
        return "sql", f"postgresql://{rest}"
    if scheme in ("redis", "rediss", "valkey"):
        return "redis", where.replace("valkey://", "redis://", 1)
    raise StoreError(f"{what} can't be kept in a {scheme}:// ledger")


class SqlTable(ABC):
    """A table in SQLite or PostgreSQL, made when it is first used. Each step has a connection of its own.

    Args:
        place: the SQLite file, which its owner alone may read, or the URL of a PostgreSQL database.
    """

    what: ClassVar[str]
    """What the table holds, for the message when it can't be reached."""

    def __init__(self, place: Path | str) -> None:
        self._place, self._made = place, False

    @abstractmethod
    def _definition(self, *, postgres: bool) -> Sequence[str]:
        """The statements that make the table; they do nothing where the table exists."""

    def close(self) -> None:
        """Make sure of the table anew at the next step; there is no connection to close."""
        self._made = False

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
            with closing(self._connect()) as connection, connection:
                run = _runner(connection, self._place)
                if not self._made:
                    for statement in self._definition(postgres=isinstance(self._place, str)):
                        run(statement, {})
                    self._made = True
                yield run
        except errors as error:
            self._made = False
            raise _unavailable(self.what, error, "the ledger's database") from error

    def _connect(self) -> Any:
        if isinstance(self._place, str):
            import psycopg

            return psycopg.connect(self._place)
        if not self._made:
            with suppress(OSError):  # SQLite says what is wrong with the file
                make_private(self._place)
        return sqlite3.connect(self._place.absolute())


def _runner(connection: Any, place: Path | str) -> Run:
    if isinstance(place, Path):
        return lambda sql, values: connection.execute(sql, values)
    from elastic_agent.scheduler.ledger.stores.postgres_connections import pyformat

    return lambda sql, values: connection.execute(pyformat(sql), values)


class RedisTable:
    """Keys of the gateway's own in a Redis.

    Args:
        url: as redis-py reads it.
    """

    what: ClassVar[str]
    """What the table holds, for the message when it can't be reached."""

    def __init__(self, url: str) -> None:
        import redis

        self._error: type[Exception] = redis.RedisError
        self._redis = redis.Redis.from_url(url, decode_responses=True)

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
