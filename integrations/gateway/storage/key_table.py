"""Where API keys are kept: JSON by the key's digest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from .tables import RedisTable, SqlTable, in_redis


class KeyTable(Protocol):
    """Keeps keys. All methods block."""

    def put(self, digest: str, text: str) -> None:
        """Write a key, over the one that is there."""
        ...

    def get(self, digest: str) -> str | None:
        """One key; None: there is none."""
        ...

    def all(self) -> list[str]:
        """All keys."""
        ...

    def close(self) -> None: ...


def open_key_table(where: str) -> KeyTable:
    """The keys of a ledger; `where` as for `open_store`."""
    return RedisKeyTable(where) if in_redis(where) else SqlKeyTable(where)


class SqlKeyTable(SqlTable):
    """A table in SQLite or PostgreSQL."""

    what = "keys"

    def _definition(self, *, postgres: bool) -> Sequence[str]:
        return ["CREATE TABLE IF NOT EXISTS elastic_keys (digest TEXT PRIMARY KEY, text TEXT NOT NULL)"]

    def put(self, digest: str, text: str) -> None:
        values = {"digest": digest, "text": text}
        with self._step() as run:
            run("DELETE FROM elastic_keys WHERE digest = :digest", values)
            run("INSERT INTO elastic_keys VALUES (:digest, :text)", values)

    def get(self, digest: str) -> str | None:
        with self._step() as run:
            found = run("SELECT text FROM elastic_keys WHERE digest = :digest", {"digest": digest}).fetchone()
        return None if found is None else cast("str", found[0])

    def all(self) -> list[str]:
        with self._step() as run:
            return [row[0] for row in run("SELECT text FROM elastic_keys", {})]


class RedisKeyTable(RedisTable):
    """A hash in the ledger's Redis."""

    what = "keys"

    def put(self, digest: str, text: str) -> None:
        with self._step() as redis:
            redis.hset("{elastic}:keys", digest, text)

    def get(self, digest: str) -> str | None:
        with self._step() as redis:
            return cast("str | None", redis.hget("{elastic}:keys", digest))

    def all(self) -> list[str]:
        with self._step() as redis:
            return cast("list[str]", redis.hvals("{elastic}:keys"))
