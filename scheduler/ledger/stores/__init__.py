"""The durable ledger and the places where it can live; protocol.py says what a durable ledger is.

    store = open_store("ledger.db")                           # an SQLite file: one machine, no server
    store = open_store("postgresql://user@host/database")     # many processes and hosts
    store = open_store("redis://host:6379/0")                 # the same, faster, less durable
    store = open_store("memory://")                           # this process only

Drivers are imported when a store is opened.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from elastic_agent.errors import StoreError, did_you_mean

if TYPE_CHECKING:
    from .protocol import Store

__all__ = ["open_store"]

_SCHEMES = {
    "memory": "memory",
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "valkey": "redis",
}


def open_store(url_or_path: str | PathLike[str], **options: Any) -> Store:
    """The ledger at a URL, or in an SQLite file at a path. The first step connects.

    Args:
        url_or_path: "memory://", "sqlite:///relative.db", "sqlite:////absolute.db", "postgresql://...",
            "redis://...", "rediss://...", "valkey://..."; without "://": the path of an SQLite file.
        options: further arguments of the store's class (`timeout`, `retention`, ...).

    Raises:
        StoreError: there is no such kind of store, or its driver is not installed.
    """
    where = fspath(url_or_path)
    scheme, separator, rest = where.partition("://")
    if not separator:
        scheme, rest = "sqlite", f"/{where}"
    kind = _SCHEMES.get(scheme)
    if kind == "memory":
        from .memory import MemoryStore

        return MemoryStore(**options)
    if kind == "sqlite":
        from .sqlite import SqliteStore

        path = rest.removeprefix("/")
        if not path or path == ":memory:":
            raise StoreError(
                f"{where!r} names no file: sqlite:///ledger.db, or memory:// for a ledger that is not kept"
            )
        return SqliteStore(path, **options)
    if kind == "postgres":
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise StoreError("PostgreSQL needs its driver: pip install 'elastic-agent[postgres]'") from None
        from .postgres import PostgresStore

        return PostgresStore(f"postgresql://{rest}", **options)
    if kind == "redis":
        try:
            from .redis import RedisStore
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise StoreError("Redis needs its driver: pip install 'elastic-agent[redis]'") from None

        return RedisStore(where, **options)
    raise StoreError(
        f"{where!r}: no store is called {scheme!r}; {did_you_mean(scheme, _SCHEMES)}there are "
        f"{', '.join(f'{name}://' for name in _SCHEMES)} and paths of SQLite files"
    )
