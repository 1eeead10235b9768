"""Where answers are kept that may be asked for again under their `Idempotency-Key`: beside the ledger.

In this process for a ledger in memory, else in its SQLite file, its PostgreSQL database or its Redis, so that
an answer outlives the process that gave it, and other processes know that it is on its way. An entry is known
by a digest of its key and its owner; of the request there is a fingerprint, and nothing that it said. The
answer itself is there, compressed, until it expires: who can read the ledger's place can read it.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from elastic_agent.errors import StoreError, StoreUnavailableError

from ..accounts.sql_table import SqlTable

State = Literal["running", "answered", "gone"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a key. Times are seconds since the epoch.

    Attributes:
        digest: of the owner and the key.
        owner: the account whose key it is.
        fingerprint: of the request.
        state: "gone" is an answer that was too large to keep.
        until: while it runs, when it can't run any more; then, when it is forgotten.
        status, headers, body: of the answer; the body is compressed.
        stream: it was sent as server-sent events.
    """

    digest: str
    owner: str
    fingerprint: str
    until: float
    state: State = "running"
    status: int = 200
    headers: str = "{}"
    stream: bool = False
    body: bytes = b""

    @property
    def text(self) -> bytes:
        """The body as it was sent."""
        return zlib.decompress(self.body) if self.body else b""


@dataclass(frozen=True, slots=True)
class Room:
    """How much is kept for one owner.

    Attributes:
        keys: entries.
        answer: bytes of one answer, compressed.
        answers: bytes of all of them.
        forget: seconds after its end for which one that ran to no end is remembered.
    """

    keys: int = 10_000
    answer: int = 1 << 20
    answers: int = 64 << 20
    forget: float = 3600.0


class FullError(Exception):
    """The owner has as many keys as are kept."""


class Answers(Protocol):
    """Keeps entries. All of it blocks, from any thread."""

    def begin(self, entry: Entry, now: float, room: Room) -> Entry | None:
        """Take a key. None: it is ours; else what stands there.

        Raises:
            FullError: the owner has too many.
        """
        ...

    def finish(self, entry: Entry, room: Room) -> None:
        """Write an answer; without its body, as gone, where there is no room for it."""
        ...

    def drop(self, digest: str) -> None:
        """Give a key back."""
        ...

    def sweep(self, now: float, room: Room) -> None:
        """Forget what has expired."""
        ...

    def close(self) -> None: ...


def forgotten(entry: Entry, now: float, room: Room) -> bool:
    """Whether an entry may go."""
    return entry.until + (room.forget if entry.state == "running" else 0.0) <= now


def fitting(entry: Entry, kept: int, room: Room) -> Entry:
    """An answer as it can be kept beside `kept` bytes of others."""
    if len(entry.body) <= room.answer and kept + len(entry.body) <= room.answers:
        return entry
    return replace(entry, state="gone", body=b"", headers="{}")


def open_answers(where: str) -> Answers:
    """Where a ledger's answers are kept; `where` as for `open_store`."""
    scheme, separator, rest = where.partition("://")
    if scheme == "memory":
        return MemoryAnswers()
    if scheme == "sqlite" or not separator:
        return SqlAnswers("sqlite", Path(rest.removeprefix("/") if separator else where))
    if scheme in ("postgresql", "postgres"):
        return SqlAnswers(f"postgresql+psycopg://{rest}")
    if scheme in ("redis", "rediss", "valkey"):
        return RedisAnswers(where.replace("valkey://", "redis://", 1))
    raise StoreError(f"answers can't be kept in a {scheme}:// ledger")


class MemoryAnswers:
    """In this process."""

    def __init__(self) -> None:
        self._owned: dict[str, dict[str, Entry]] = {}
        self._bytes: dict[str, int] = {}
        self._owner: dict[str, str] = {}
        self._lock = threading.Lock()

    def begin(self, entry: Entry, now: float, room: Room) -> Entry | None:
        with self._lock:
            owned = self._owned.setdefault(entry.owner, {})
            found = owned.get(entry.digest)
            if found is not None and not forgotten(found, now, room):
                return found
            if len(owned) >= room.keys:
                self._forget(entry.owner, now, room)
                if len(self._owned.get(entry.owner, ())) >= room.keys:
                    raise FullError
            self._put(entry)
            return None

    def finish(self, entry: Entry, room: Room) -> None:
        with self._lock:
            self._put(fitting(entry, self._bytes.get(entry.owner, 0), room))

    def drop(self, digest: str) -> None:
        with self._lock:
            self._take(digest)

    def sweep(self, now: float, room: Room) -> None:
        with self._lock:
            for owner in list(self._owned):
                self._forget(owner, now, room)

    def close(self) -> None:
        pass

    def _put(self, entry: Entry) -> None:
        self._take(entry.digest)
        self._owned.setdefault(entry.owner, {})[entry.digest] = entry
        self._bytes[entry.owner] = self._bytes.get(entry.owner, 0) + len(entry.body)
        self._owner[entry.digest] = entry.owner

    def _take(self, digest: str) -> None:
        owner = self._owner.pop(digest, None)
        if owner is not None:
            self._bytes[owner] -= len(self._owned[owner].pop(digest).body)

    def _forget(self, owner: str, now: float, room: Room) -> None:
        for entry in list(self._owned[owner].values()):
            if forgotten(entry, now, room):
                self._take(entry.digest)
        if not self._owned[owner]:
            del self._owned[owner], self._bytes[owner]


_COLUMNS = "digest, owner, fingerprint, until, state, status, headers, stream, body"


class SqlAnswers(SqlTable):
    """A table in the ledger's SQLite file or PostgreSQL database."""

    what = "answers"

    def _definition(self, dialect: str) -> Sequence[str]:
        blob = "BYTEA" if dialect == "postgresql" else "BLOB"
        table = (
            "CREATE TABLE IF NOT EXISTS elastic_answers (digest TEXT PRIMARY KEY, owner TEXT NOT NULL, "
            "fingerprint TEXT NOT NULL, until DOUBLE PRECISION NOT NULL, state TEXT NOT NULL, "
            "status INTEGER NOT NULL, headers TEXT NOT NULL, stream INTEGER NOT NULL, "
            f"body {blob} NOT NULL, size BIGINT NOT NULL)"
        )
        names = (f"elastic_answers_{column} ON elastic_answers ({column})" for column in ("owner", "until"))
        return [table, *(f"CREATE INDEX IF NOT EXISTS {name}" for name in names)]

    def begin(self, entry: Entry, now: float, room: Room) -> Entry | None:
        with self._step() as run:
            self._forget(run, now, room, "AND digest = :digest", {"digest": entry.digest})
            values = asdict(entry) | {"stream": int(entry.stream), "size": 0}
            ours = run(
                f"INSERT INTO elastic_answers ({_COLUMNS}, size) VALUES (:digest, :owner, :fingerprint, "
                ":until, :state, :status, :headers, :stream, :body, :size) ON CONFLICT (digest) DO NOTHING",
                values,
            ).rowcount
            if not ours:
                row = run(
                    f"SELECT {_COLUMNS} FROM elastic_answers WHERE digest = :digest", {"digest": entry.digest}
                ).first()
                return None if row is None else _entry(row)
            count = "SELECT COUNT(*) FROM elastic_answers WHERE owner = :owner"
            if run(count, {"owner": entry.owner}).scalar_one() > room.keys:
                self._forget(run, now, room, "", {})
                if run(count, {"owner": entry.owner}).scalar_one() > room.keys:
                    raise FullError
            return None

    def finish(self, entry: Entry, room: Room) -> None:
        with self._step() as run:
            total = "SELECT COALESCE(SUM(size), 0) FROM elastic_answers WHERE owner = :owner"
            kept = int(run(total, {"owner": entry.owner}).scalar_one())
            entry = fitting(entry, kept, room)
            run(
                "UPDATE elastic_answers SET until = :until, state = :state, status = :status, "
                "headers = :headers, stream = :stream, body = :body, size = :size WHERE digest = :digest",
                asdict(entry) | {"stream": int(entry.stream), "size": len(entry.body)},
            )

    def drop(self, digest: str) -> None:
        with self._step() as run:
            run("DELETE FROM elastic_answers WHERE digest = :digest", {"digest": digest})

    def sweep(self, now: float, room: Room) -> None:
        with self._step() as run:
            self._forget(run, now, room, "", {})

    @staticmethod
    def _forget(
        run: Callable[[str, dict[str, Any]], Any], now: float, room: Room, more: str, values: dict[str, Any]
    ) -> None:
        run(
            "DELETE FROM elastic_answers WHERE "
            f"((state <> 'running' AND until <= :now) OR until <= :running) {more}",
            {"now": now, "running": now - room.forget, **values},
        )


def _entry(row: Any) -> Entry:
    digest, owner, fingerprint, until, state, status, headers, stream, body = row
    return Entry(digest, owner, fingerprint, until, state, status, headers, bool(stream), bytes(body))


class RedisAnswers:
    """Strings that expire in the ledger's Redis; for each owner, when its own do and how large they are."""

    def __init__(self, url: str) -> None:
        import redis

        self._error: type[Exception] = redis.RedisError
        self._redis = redis.Redis.from_url(url, decode_responses=True)

    def begin(self, entry: Entry, now: float, room: Room) -> Entry | None:
        def step() -> Entry | None:
            name, seconds = _name(entry.digest), max(1.0, entry.until + room.forget - now)
            if not self._redis.set(name, _written(entry), nx=True, px=int(seconds * 1000)):
                found = self._redis.get(name)
                return None if found is None else _read(cast("str", found))
            ends, sizes = _of(entry.owner)
            over = cast("list[str]", self._redis.zrangebyscore(ends, "-inf", now))
            if over:
                self._redis.zrem(ends, *over)
                self._redis.hdel(sizes, *over)
            self._redis.zadd(ends, {entry.digest: entry.until + room.forget})
            self._redis.expire(ends, int(seconds) + 86_400)
            if self._redis.zcard(ends) > room.keys:
                self._redis.delete(name)
                self._redis.zrem(ends, entry.digest)
                raise FullError
            return None

        return cast("Entry | None", self._step(step))

    def finish(self, entry: Entry, room: Room) -> None:
        def step() -> None:
            ends, sizes = _of(entry.owner)
            kept = sum(map(int, cast("list[str]", self._redis.hvals(sizes))))
            found = fitting(entry, kept, room)
            seconds = entry.until - time.time()
            if seconds <= 0:
                self._redis.delete(_name(entry.digest))
                self._redis.zrem(ends, entry.digest)
                return
            self._redis.set(_name(entry.digest), _written(found), px=max(1, int(seconds * 1000)))
            self._redis.zadd(ends, {entry.digest: entry.until})
            self._redis.hset(sizes, entry.digest, str(len(found.body)))
            self._redis.expire(sizes, int(seconds) + 86_400)

        self._step(step)

    def drop(self, digest: str) -> None:
        def step() -> None:
            found = self._redis.get(_name(digest))
            if found is not None:
                ends, sizes = _of(_read(cast("str", found)).owner)
                self._redis.zrem(ends, digest)
                self._redis.hdel(sizes, digest)
            self._redis.delete(_name(digest))

        self._step(step)

    def sweep(self, now: float, room: Room) -> None:
        """They expire by themselves."""

    def close(self) -> None:
        self._redis.close()

    def _step(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except self._error as error:
            raise StoreUnavailableError(
                f"the answers can't be reached ({type(error).__name__}): is Redis there?"
            ) from error


def _name(digest: str) -> str:
    return f"{{elastic}}:answer:{digest}"


def _of(owner: str) -> tuple[str, str]:
    return f"{{elastic}}:answers:{owner}", f"{{elastic}}:answer-sizes:{owner}"


def _written(entry: Entry) -> str:
    return json.dumps(asdict(entry) | {"body": base64.b64encode(entry.body).decode()})


def _read(text: str) -> Entry:
    told = json.loads(text)
    return Entry(**told | {"body": base64.b64decode(told["body"])})
