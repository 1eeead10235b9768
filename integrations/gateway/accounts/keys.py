"""Keys with caps. Kept beside the ledger: in its SQLite file, its PostgreSQL database or its Redis.

A key is 256 random bits; the store has its SHA-256, which nobody can turn back, and needs no salt nor a slow
hash, which are there for what people make up. Who has the store can't use the keys; who loses one makes
another. A key's name and its account are for logs; the key itself is shown once, when it is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import StoreError, StoreUnavailableError
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Window

from .sql_table import SqlTable

T = TypeVar("T")

PREFIX = "ea-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key; not the key.

    Attributes:
        name: its owner's.
        digest: SHA-256 of the key, in hexadecimal.
        account: its account on the ledger.
        tokens, nano: its caps.
        window: they are for each UTC day or month; None: for its lifetime.
        created: when, for people.
        revoked: it opens nothing any more.
    """

    name: str
    digest: str
    account: str
    tokens: int | None = None
    nano: int | None = None
    window: Window | None = None
    created: str = ""
    revoked: bool = False

    def spec(self) -> Spec:
        """Its account, as it is opened."""
        return Spec(self.account, self.tokens, self.nano, window=self.window)

    def public(self) -> dict[str, Any]:
        """For people and logs."""
        return {
            "name": self.name,
            "account": self.account,
            "usd": None if self.nano is None else float(to_usd(self.nano)),
            "tokens": self.tokens,
            "per": self.window,
            "created": self.created,
            "revoked": self.revoked,
        }


def digest(secret: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Shelf(Protocol):
    """Where keys lie: JSON by digest. All of it blocks."""

    def put(self, digest: str, text: str) -> None: ...

    def get(self, digest: str) -> str | None: ...

    def all(self) -> list[str]: ...

    def close(self) -> None: ...


class Keys:
    """The keys of a ledger.

    Args:
        where: as for `open_store`.
        remember: seconds for which a process goes on with what it has looked up: so long a key that was
            revoked elsewhere still works.
    """

    def __init__(self, where: str, *, remember: float = 5.0) -> None:
        self._shelf = _shelf(where)
        self._remember = remember
        self._seen: dict[str, tuple[float, Key | None]] = {}
        self._lock = threading.Lock()  # one connection

    def create(self, name: str, caps: Caps | None = None, *, window: Window | None = None) -> tuple[str, Key]:
        """A new key and what is stored of it.

        Raises:
            ValueError: a name that can't be, or that another key has.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"a key's name is 1 to 64 letters, digits or . _ @ -, not {name!r}")
        if any(key.name == name and not key.revoked for key in self.list()):
            raise ValueError(f"there is a key called {name!r}: revoke it first, or take another name")
        if caps is not None and caps.seconds is not None:
            raise ValueError("a key has no seconds: cap its usd or tokens")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            name,
            digest(secret),
            f"key/{name}/{secrets.token_hex(4)}",  # never an old key's account
            caps.tokens if caps else None,
            caps.nanodollars if caps else None,
            window,
            datetime.now(UTC).isoformat(),
        )
        self._put(key)
        return secret, key

    def list(self) -> list[Key]:
        """All, revoked ones too, by age."""
        with self._lock:
            texts = self._shelf.all()
        return sorted((Key(**json.loads(text)) for text in texts), key=lambda key: (key.created, key.name))

    def revoke(self, name: str) -> Key:
        """End a key; what was spent on it stays in the books.

        Raises:
            ValueError: there is none of this name.
        """
        for key in self.list():
            if key.name == name and not key.revoked:
                ended = Key(**asdict(key) | {"revoked": True})
                self._put(ended)
                return ended
        raise ValueError(f"there is no key called {name!r}: `elastic-agent keys list` shows them")

    async def find(self, secret: str) -> Key | None:
        """The key that this is, revoked or not; None: nobody's."""
        wanted, now = digest(secret), asyncio.get_running_loop().time()
        at, key = self._seen.get(wanted, (float("-inf"), None))
        if now - at > self._remember:
            text = await self._there(lambda: self._shelf.get(wanted))
            key = Key(**json.loads(text)) if text is not None else None
            if len(self._seen) > 10_000:  # somebody is guessing
                self._seen.clear()
            self._seen[wanted] = (now, key)
        if key is None or not hmac.compare_digest(key.digest, wanted):
            return None
        return key

    async def any(self) -> bool:
        """Whether there is a key, revoked or not."""
        return bool(await self._there(self._shelf.all))

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._shelf.close()

    def _put(self, key: Key) -> None:
        with self._lock:
            self._shelf.put(key.digest, json.dumps(asdict(key)))
        self._seen.clear()

    async def _there(self, step: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock:
                return step()

        return await asyncio.to_thread(locked)


def _shelf(where: str) -> Shelf:
    scheme, separator, rest = where.partition("://")
    if scheme == "memory":
        return MemoryShelf()
    if scheme == "sqlite" or not separator:
        return SqlShelf("sqlite", Path(rest.removeprefix("/") if separator else where))
    if scheme in ("postgresql", "postgres"):
        return SqlShelf(f"postgresql+psycopg://{rest}")
    if scheme in ("redis", "rediss", "valkey"):
        return RedisShelf(where.replace("valkey://", "redis://", 1))
    raise StoreError(f"keys can't be kept in a {scheme}:// ledger")


class MemoryShelf:
    """In this process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def put(self, digest: str, text: str) -> None:
        self._texts[digest] = text

    def get(self, digest: str) -> str | None:
        return self._texts.get(digest)

    def all(self) -> list[str]:
        return list(self._texts.values())

    def close(self) -> None:
        pass


class SqlShelf(SqlTable):
    """A table in the ledger's SQLite file or PostgreSQL database."""

    what = "keys"

    def _definition(self, dialect: str) -> Sequence[str]:
        return ["CREATE TABLE IF NOT EXISTS elastic_keys (digest TEXT PRIMARY KEY, text TEXT NOT NULL)"]

    def put(self, digest: str, text: str) -> None:
        values = {"digest": digest, "text": text}
        with self._step() as run:
            run("DELETE FROM elastic_keys WHERE digest = :digest", values)
            run("INSERT INTO elastic_keys VALUES (:digest, :text)", values)

    def get(self, digest: str) -> str | None:
        with self._step() as run:
            found = run("SELECT text FROM elastic_keys WHERE digest = :digest", {"digest": digest}).first()
        return None if found is None else cast("str", found[0])

    def all(self) -> list[str]:
        with self._step() as run:
            return [row[0] for row in run("SELECT text FROM elastic_keys", {})]


class RedisShelf:
    """A hash in the ledger's Redis."""

    def __init__(self, url: str) -> None:
        import redis

        self._error: type[Exception] = redis.RedisError
        self._redis = redis.Redis.from_url(url, decode_responses=True)

    def put(self, digest: str, text: str) -> None:
        self._step(lambda: self._redis.hset("{elastic}:keys", digest, text))

    def get(self, digest: str) -> str | None:
        return cast("str | None", self._step(lambda: self._redis.hget("{elastic}:keys", digest)))

    def all(self) -> list[str]:
        return cast("list[str]", self._step(lambda: self._redis.hvals("{elastic}:keys")))

    def close(self) -> None:
        self._redis.close()

    def _step(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except self._error as error:
            raise StoreUnavailableError(
                f"the keys can't be reached ({type(error).__name__}): is Redis there?"
            ) from error
