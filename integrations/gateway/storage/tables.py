"""Tables beside the ledger: in this process, or in the ledger's SQLite file, PostgreSQL database or Redis.

Here are the connection, the steps and their errors; what a table holds is for its own module to say. All
methods block, and may be called from any thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from elastic_agent.credentials import make_private
from elastic_agent.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from redis import Redis

Run = Callable[[str, dict[str, Any]], Any]
"""Runs one SQL statement with its values."""


def table_kind(where: str, what: str) -> tuple[Literal["memory", "sql", "redis"], str, Path | None]:
    """How a table is kept in a ledger's place: its kind, its URL for SQLAlchemy or redis-py, its SQLite file.

    Args:
        where: the ledger's place, as for `open_store`.
        what: what the table holds, for the message where the place is unknown.

    Raises:
        StoreError: no table can be kept in such a place.
    """
    scheme, separator, rest = where.partition("://")
    if scheme == "memory":
        return "memory", where, None
    if scheme == "sqlite" or not separator:
        return "sql", "sqlite", Path(rest.removeprefix("/") if separator else where)
    if scheme in ("postgresql", "postgres"):
        return "sql", f"postgresql+psycopg://{rest}", None
    if scheme in ("redis", "rediss", "valkey"):
        return "redis", where.replace("valkey://", "redis://", 1), None
    raise StoreError(f"{what} can't be kept in a {scheme}:// ledger")


class SqlTable(ABC):
    """A table in SQLite or PostgreSQL, made when it is first used.

    Args:
        url: as SQLAlchemy writes it; "sqlite" for a file.
        file: the SQLite file. Its owner alone may read it.
    """

    what: ClassVar[str]
    """What the table holds, for the message when it can't be reached."""

    def __init__(self, url: str, file: Path | None = None) -> None:
        from sqlalchemy import create_engine
        from sqlalchemy.engine import URL
        from sqlalchemy.pool import NullPool

        place = url if file is None else URL.create(url, database=str(file.absolute()))
        self._engine = create_engine(place, poolclass=NullPool)  # asked now and then, from any thread
        self._file, self._made = file, False

    @abstractmethod
    def _definition(self, dialect: str) -> Sequence[str]:
        """The statements that make the table; they do nothing where the table exists."""

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def _step(self) -> Iterator[Run]:
        """Statements in one transaction.

        Raises:
            StoreUnavailableError: the database can't be reached.
        """
        from sqlalchemy import exc, text

        try:
            if self._file is not None and not self._made:
                with suppress(OSError):  # SQLite says what is wrong with the file
                    make_private(self._file)
            with self._engine.begin() as connection:
                if not self._made:
                    for statement in self._definition(connection.dialect.name):
                        connection.execute(text(statement))
                    self._made = True
                yield lambda sql, values: connection.execute(text(sql), values)
        except exc.SQLAlchemyError as error:
            self._made = False
            raise _unavailable(self.what, error, "the ledger's database") from error


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
