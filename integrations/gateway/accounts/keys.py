"""API keys with caps.

A key is 256 random bits. Only its SHA-256 digest is stored beside the ledger, from which the key can't be
computed: a reader of the ledger can't use the keys, and a lost key has to be replaced. A random key needs
neither salt nor a slow hash, which protect secrets that people choose. Logs show a key's name and account;
the key itself is shown once, when it is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from elastic_agent.budget import Caps, to_usd
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Window

from ..storage.key_table import open_key_table

PREFIX = "ea-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key, without the key.

    Attributes:
        name: whose key it is.
        digest: SHA-256 of the key, in hexadecimal.
        account: its account on the ledger.
        tokens, nano: its caps.
        window: the caps are for each UTC day or month; None: for the key's lifetime.
        created: date and time, for people.
        revoked: it is refused.
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
        """Its account on the ledger, with its caps."""
        return Spec(self.account, self.tokens, self.nano, window=self.window)

    def public(self) -> dict[str, Any]:
        """What people and logs may see."""
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
    """The SHA-256 of a key, in hexadecimal: what is stored."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """The keys of a ledger.

    Args:
        where: as for `open_store`.
        remember: seconds for which a process trusts a look-up, and a key that another process has revoked
            still works.
    """

    def __init__(self, where: str, *, remember: float = 5.0) -> None:
        self._table = open_key_table(where)
        self._remember = remember
        self._seen: dict[str, tuple[float, Key | None]] = {}  # by digest: when it was looked up, and the key

    def create(self, name: str, caps: Caps | None = None, *, window: Window | None = None) -> tuple[str, Key]:
        """A new key, and what is stored of it.

        Raises:
            ValueError: the name has another form, or another key has it; or there are seconds in the caps.
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
            f"key/{name}/{secrets.token_hex(4)}",  # an account that no older key had
            caps.tokens if caps else None,
            caps.nanodollars if caps else None,
            window,
            datetime.now(UTC).isoformat(),
        )
        self._put(key)
        return secret, key

    def list(self) -> list[Key]:
        """All keys, also revoked ones, the oldest first."""
        return sorted(
            (Key(**json.loads(text)) for text in self._table.all()), key=lambda key: (key.created, key.name)
        )

    def revoke(self, name: str) -> Key:
        """Revoke a key; what was spent on it stays on the ledger.

        Raises:
            ValueError: there is none of this name.
        """
        for key in self.list():
            if key.name == name and not key.revoked:
                ended = replace(key, revoked=True)
                self._put(ended)
                return ended
        raise ValueError(f"there is no key called {name!r}: `elastic-agent keys list` shows them")

    async def find(self, secret: str) -> Key | None:
        """What is stored of a key, revoked or not; None: no such key was made."""
        wanted, now = digest(secret), asyncio.get_running_loop().time()
        at, key = self._seen.get(wanted, (float("-inf"), None))
        if now - at > self._remember:
            text = await asyncio.to_thread(self._table.get, wanted)
            key = Key(**json.loads(text)) if text is not None else None
            if len(self._seen) > 10_000:  # a client guesses keys
                self._seen.clear()
            self._seen[wanted] = (now, key)
        if key is None or not hmac.compare_digest(key.digest, wanted):
            return None
        return key

    async def any(self) -> bool:
        """Whether there is any key, revoked or not."""
        return bool(await asyncio.to_thread(self._table.all))

    def close(self) -> None:
        """Close the connection."""
        self._table.close()

    def _put(self, key: Key) -> None:
        self._table.put(key.digest, json.dumps(asdict(key)))
        self._seen.clear()
