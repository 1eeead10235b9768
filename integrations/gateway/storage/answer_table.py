"""Where answers are kept for requests that repeat their `Idempotency-Key`: beside the ledger.

With a ledger in memory the answers are in this process, otherwise in the ledger's SQLite file, PostgreSQL
database or Redis, where an answer outlives the process that gave it, and other processes see that an answer
is on its way. An entry is found by a digest of its owner and key. Of the request only a fingerprint is kept.
The answer is kept, compressed, until it expires, and can be read by all who can read the ledger.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, cast

from .tables import RedisTable, Run, SqlTable, in_redis

State = Literal["running", "answered", "gone"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an Idempotency-Key. Times are seconds since the epoch.

    Attributes:
        digest: of the owner and the key.
        owner: the account whose key it is.
        fingerprint: of the request.
        until: while the request runs, the time by which it must have ended; then the entry's expiry.
        state: "gone" is an answer that was too large to keep.
        status, headers, body: of the answer; the body is compressed.
        stream: the answer was sent as server-sent events.
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

    def fitted(self, kept: int, limits: KeepLimits) -> Entry:
        """The entry as it is kept beside `kept` bytes of its owner: without a body that is too large."""
        if len(self.body) <= limits.answer_bytes and kept + len(self.body) <= limits.owner_bytes:
            return self
        return replace(self, state="gone", body=b"", headers="{}")


@dataclass(frozen=True, slots=True)
class KeepLimits:
    """How much is kept for one owner.

    Attributes:
        keys: entries.
        answer_bytes: of one answer, compressed.
        owner_bytes: of all answers of the owner.
        lost_seconds: for which an entry is kept whose request was never seen to end.
    """

    keys: int = 10_000
    answer_bytes: int = 1 << 20
    owner_bytes: int = 64 << 20
    lost_seconds: float = 3600.0


class FullError(Exception):
    """The owner has as many keys as are kept."""


class AnswerTable(Protocol):
    """Keeps entries. All methods block, and may be called from any thread."""

    def claim(self, entry: Entry, now: float, limits: KeepLimits) -> Entry | None:
        """Write an entry where there is none. None: it was written; else the entry that is there.

        Raises:
            FullError: the owner has too many.
        """
        ...

    def finish(self, entry: Entry, limits: KeepLimits) -> None:
        """Write an answer over its claim; without its body, as gone, where there is no room for it."""
        ...

    def release(self, digest: str) -> None:
        """Delete an entry: its key can be claimed again."""
        ...

    def sweep(self, now: float, limits: KeepLimits) -> None:
        """Delete what has expired."""
        ...

    def close(self) -> None: ...


def open_answer_table(where: str) -> AnswerTable:
    """The answers of a ledger; `where` as for `open_store`."""
    return RedisAnswerTable(where) if in_redis(where) else SqlAnswerTable(where)


_COLUMNS = "digest, owner, fingerprint, until, state, status, headers, stream, body"


class SqlAnswerTable(SqlTable):
    """A table in SQLite or PostgreSQL."""

    what = "answers"

    def _definition(self, *, postgres: bool) -> Sequence[str]:
        blob = "BYTEA" if postgres else "BLOB"
        table = (
            "CREATE TABLE IF NOT EXISTS elastic_answers (digest TEXT PRIMARY KEY, owner TEXT NOT NULL, "
            "fingerprint TEXT NOT NULL, until DOUBLE PRECISION NOT NULL, state TEXT NOT NULL, "
            "status INTEGER NOT NULL, headers TEXT NOT NULL, stream INTEGER NOT NULL, "
            f"body {blob} NOT NULL, size BIGINT NOT NULL)"
        )
        names = (f"elastic_answers_{column} ON elastic_answers ({column})" for column in ("owner", "until"))
        return [table, *(f"CREATE INDEX IF NOT EXISTS {name}" for name in names)]

    def claim(self, entry: Entry, now: float, limits: KeepLimits) -> Entry | None:
        with self._step() as run:
            self._delete_expired(run, now, limits, entry.digest)
            written = run(
                f"INSERT INTO elastic_answers ({_COLUMNS}, size) VALUES (:digest, :owner, :fingerprint, "
                ":until, :state, :status, :headers, :stream, :body, :size) ON CONFLICT (digest) DO NOTHING",
                _values(entry),
            ).rowcount
            if not written:
                row = run(
                    f"SELECT {_COLUMNS} FROM elastic_answers WHERE digest = :digest", {"digest": entry.digest}
                ).fetchone()
                return None if row is None else _from_row(row)
            count = "SELECT COUNT(*) FROM elastic_answers WHERE owner = :owner"
            if run(count, {"owner": entry.owner}).fetchone()[0] > limits.keys:
                self._delete_expired(run, now, limits)
                if run(count, {"owner": entry.owner}).fetchone()[0] > limits.keys:
                    raise FullError
            return None

    def finish(self, entry: Entry, limits: KeepLimits) -> None:
        with self._step() as run:
            total = "SELECT COALESCE(SUM(size), 0) FROM elastic_answers WHERE owner = :owner"
            kept = int(run(total, {"owner": entry.owner}).fetchone()[0])
            run(
                "UPDATE elastic_answers SET until = :until, state = :state, status = :status, "
                "headers = :headers, stream = :stream, body = :body, size = :size WHERE digest = :digest",
                _values(entry.fitted(kept, limits)),
            )

    def release(self, digest: str) -> None:
        with self._step() as run:
            run("DELETE FROM elastic_answers WHERE digest = :digest", {"digest": digest})

    def sweep(self, now: float, limits: KeepLimits) -> None:
        with self._step() as run:
            self._delete_expired(run, now, limits)

    @staticmethod
    def _delete_expired(run: Run, now: float, limits: KeepLimits, digest: str | None = None) -> None:
        """Delete expired entries: all, or the one of a digest."""
        run(
            "DELETE FROM elastic_answers WHERE ((state <> 'running' AND until <= :now) OR until <= :lost)"
            + (" AND digest = :digest" if digest is not None else ""),
            {"now": now, "lost": now - limits.lost_seconds} | ({"digest": digest} if digest else {}),
        )


def _values(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {"stream": int(entry.stream), "size": len(entry.body)}


def _from_row(row: Any) -> Entry:
    digest, owner, fingerprint, until, state, status, headers, stream, body = row
    return Entry(digest, owner, fingerprint, until, state, status, headers, bool(stream), bytes(body))


class RedisAnswerTable(RedisTable):
    """Strings that expire in the ledger's Redis; and for each owner, its entries' expiry times and sizes."""

    what = "answers"

    def claim(self, entry: Entry, now: float, limits: KeepLimits) -> Entry | None:
        name, seconds = _name(entry.digest), max(1.0, entry.until + limits.lost_seconds - now)
        ends, sizes = _of(entry.owner)
        with self._step() as redis:
            if not redis.set(name, _to_text(entry), nx=True, px=int(seconds * 1000)):
                found = redis.get(name)
                return None if found is None else _from_text(cast("str", found))
            over = cast("list[str]", redis.zrangebyscore(ends, "-inf", now))
            if over:
                redis.zrem(ends, *over)
                redis.hdel(sizes, *over)
            redis.zadd(ends, {entry.digest: entry.until + limits.lost_seconds})
            redis.expire(ends, int(seconds) + 86_400)
            if redis.zcard(ends) > limits.keys:
                redis.delete(name)
                redis.zrem(ends, entry.digest)
                raise FullError
            return None

    def finish(self, entry: Entry, limits: KeepLimits) -> None:
        name, seconds = _name(entry.digest), entry.until - time.time()
        ends, sizes = _of(entry.owner)
        with self._step() as redis:
            if seconds <= 0:
                redis.delete(name)
                redis.zrem(ends, entry.digest)
                return
            entry = entry.fitted(sum(map(int, cast("list[str]", redis.hvals(sizes)))), limits)
            redis.set(name, _to_text(entry), px=max(1, int(seconds * 1000)))
            redis.zadd(ends, {entry.digest: entry.until})
            redis.hset(sizes, entry.digest, str(len(entry.body)))
            redis.expire(sizes, int(seconds) + 86_400)

    def release(self, digest: str) -> None:
        with self._step() as redis:
            found = redis.get(_name(digest))
            if found is not None:
                ends, sizes = _of(_from_text(cast("str", found)).owner)
                redis.zrem(ends, digest)
                redis.hdel(sizes, digest)
            redis.delete(_name(digest))

    def sweep(self, now: float, limits: KeepLimits) -> None:
        """Nothing to do: entries expire by themselves."""


def _name(digest: str) -> str:
    return f"{{elastic}}:answer:{digest}"


def _of(owner: str) -> tuple[str, str]:
    """The names of an owner's expiry times and sizes."""
    return f"{{elastic}}:answers:{owner}", f"{{elastic}}:answer-sizes:{owner}"


def _to_text(entry: Entry) -> str:
    return json.dumps(asdict(entry) | {"body": base64.b64encode(entry.body).decode()})


def _from_text(text: str) -> Entry:
    fields = json.loads(text)
    return Entry(**fields | {"body": base64.b64decode(fields["body"])})
