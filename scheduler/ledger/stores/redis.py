"""The ledger in Redis or Valkey: fast, shared by many hosts, and only as durable as that server is set up.

Every step is one run of `redis.lua`, which the server executes whole, on its own clock. Steps that wait leave
together (`group_commit.py`): the server syncs its file once for all of them. All keys are in one slot (their
names start with `{elastic}`), so a node of a cluster serves as well as a single server.

What it can lose. With `appendonly yes` and `appendfsync always` a step is on the server's disk when it is
acknowledged, and a killed server comes back with all steps. Other settings lose acknowledged steps:

- `appendfsync everysec` (Redis' default): up to about two seconds of steps in a crash of the machine; a crash
  of the server alone loses nothing that the kernel has.
- no append-only file: everything since the last snapshot, in any crash. The store warns of it, once.
- failover to a replica, Sentinel's or a cluster's: steps that had not been replicated. Replication is
  asynchronous; no setting here closes the gap, `WAIT` makes it smaller.

A lost hold is money: its call is under way, and its room is given to another. A lost settle is only a hold
that ends with its lease, charged in full. Where no hold may be lost, take PostgreSQL, or run Redis without
failover.

Values stay below 2^53 (9 million dollars; 9e15 tokens): numbers in the script are doubles.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from elastic_agent.errors import StoreError, StoreUnavailableError, StoreVersionError

from .. import clocks
from ..accounts import HoldState
from ..amounts import Amount, Shortage
from .base import RETENTION, BaseStore
from .group_commit import GroupCommit
from .ledger_time import LedgerTime, Mark, clock_is_behind
from .protocol import Spec, StoredAccount, StoredHold
from .refusals import (
    account_closed,
    key_in_use,
    ledger_replaced,
    not_replaceable,
    other_parent,
    unknown_account,
    unknown_hold,
)
from .repository import AccountRow
from .transitions import Transitions, check_sums

T = TypeVar("T")

_SCRIPT = Path(__file__).with_name("redis.lua").read_text()

# What to do about a server's error, by the first word of the error.
_ADVICE = {
    "OOM": "its memory is full: raise its `maxmemory`",
    "READONLY": "it is a replica: give the URL of the primary",
    "MASTERDOWN": "it is a replica that lost its primary",
    "LOADING": "it is reading its file after a start: ask again when it has",
    "MISCONF": "it can't write its file: look at its disk",
    "NOREPLICAS": "it has fewer replicas than its `min-replicas-to-write` asks for",
    "MOVED": "it is a cluster: give the URL of the node that has the slot of the store's keys",
    "CLUSTERDOWN": "its cluster is down",
    "BUSY": "it runs someone's endless script: see SCRIPT KILL",
    "NOAUTH": "it wants a password: redis://:PASSWORD@HOST:PORT/0",
    "WRONGPASS": "its password is another",
    "NOPERM": "this user may not run scripts on the store's keys",
}

_log = logging.getLogger(__name__)


class RedisStore(BaseStore):
    """A `Store` in Redis 5 or later, or Valkey.

    Args:
        url: redis://[USER:PASSWORD@]HOST:PORT/DATABASE, rediss:// for TLS, unix://PATH.
        timeout: seconds that one step may take, its wait for earlier steps included.
        name: of this ledger; several can share a server.
        clock, elapsed: of this machine; see `LedgerTime`.
        retention: seconds for which ended holds and closed accounts are kept.
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        name: str = "elastic",
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] | None = None,
        retention: float = RETENTION,
    ) -> None:
        super().__init__(retention)
        self._time = LedgerTime(clock, elapsed, server=True)
        self._generation, self._fresh = "", uuid4().hex
        where = urlsplit(url)
        self._where = f"the ledger at {where.scheme}://{where.hostname or ''}:{where.port or ''}{where.path}"
        self._timeout = timeout
        self._root = f"{{{name}}}"
        self._looked_up = False
        self._redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            redis_connect_func=self._connected,
            # After a restart of the server the connection is dead, and its next use says so. Any step can be
            # repeated, so the driver sends it again, once.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._script = self._redis.register_script(_SCRIPT)
        # (The driver itself connects anew in a forked process.)
        self._commits: GroupCommit[tuple[str, ...]] = GroupCommit(
            "ledger", self._together, disconnect=self._redis.close, timeout=timeout
        )

    async def _run(self, step: Callable[..., T], *args: Any) -> T:
        if step is Transitions.set_time:
            self._time.set()
        try:
            return cast("T", await self._commits.run((step.__name__, *_words(args))))
        except TimeoutError as error:
            raise self._to_error(error) from None

    def _later(self, step: Callable[..., T], *args: Any) -> Future[T]:
        return self._commits.later((step.__name__, *_words(args)))

    async def aclose(self) -> None:
        await self._commits.aclose()

    # On the thread of the group commits

    def _together(self, steps: list[tuple[str, ...]]) -> list[Any]:
        try:
            if not self._looked_up:
                self._look_up()
            answers = self._pipeline(steps)
            if any(isinstance(answer, NoScriptError) for answer in answers):  # a new server, or restarted
                self._redis.script_load(self._script.script)
                answers = self._pipeline(steps)
        except (RedisError, OSError) as error:
            raise self._to_error(error) from error
        return [self._read(step[0], answer) for step, answer in zip(steps, answers, strict=True)]

    def _pipeline(self, steps: list[tuple[str, ...]]) -> list[Any]:
        pipe, time = self._redis.pipeline(transaction=False), self._time
        (earliest, latest), asked = time.bounds(), time.ticks
        about = (
            *_words((earliest, None if math.isinf(latest) else latest)),
            clocks.boot(),
            repr(asked),
            "" if time.ahead is None else repr(time.ahead),
            self._generation,
            self._fresh,
        )
        for name, *words in steps:
            pipe.evalsha(self._script.sha, 1, self._root, name, *about, *words)
        answers: list[Any] = pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, list) and answer[0] == "ok":
                now, clock, generation = answer[2:]
                time.heard(int(now) / 1e6, int(clock) / 1e6, asked)
                self._generation = self._generation or generation
        return answers

    def _read(self, step: str, answer: Any) -> Any:
        """A step's answer from the script's, or the error that the script's answer means."""
        if isinstance(answer, Exception):
            return self._to_error(answer)
        kind, *found = answer
        if kind == "ok":
            return _READ[step](found[0]) if step in _READ else None
        if kind == "forgot":
            return ledger_replaced(self._where)
        if kind == "clock":
            return clock_is_behind(int(found[0]) / 1e6, int(found[1]) / 1e6)
        if kind == "version":
            return StoreVersionError(
                f"{self._where} has schema version {found[0]}, newer than this library: upgrade it"
            )
        return _REFUSALS.get(kind, StoreError)(*found)

    def _to_error(self, error: Exception) -> StoreError:
        if isinstance(error, TimeoutError | redis.TimeoutError):
            return StoreUnavailableError(
                f"{self._where} did not answer within {self._timeout:g} s; the step may have happened"
            )
        # The driver takes the first word off errors that it has classes for
        word = getattr(error, "status_code", None) or str(error).partition(" ")[0]
        if isinstance(error, ResponseError) and word not in _ADVICE:
            return StoreError(f"{self._where}: {error}")
        advice = _ADVICE.get(word, "is it up, and can it be reached from here?")
        return StoreUnavailableError(f"{self._where}: {error}; {advice}")

    def _connected(self, connection: Any) -> None:
        connection.on_connect()
        self.connections += 1

    def _look_up(self) -> None:
        """Look once at the time that the ledger has seen, and at how the server keeps its data."""
        info = self._redis.info()
        found: list[Any] = self._redis.hmget(self._root, "clock", "boot", "ticks", "ahead")
        latest, boot, ticks, ahead = found
        self._time.found(
            Mark(int(latest or 0) / 1e6, boot or "", float(ticks or 0), float(ahead) if ahead else None)
        )
        if info.get("maxmemory") and str(info.get("maxmemory_policy")).startswith("allkeys"):
            raise StoreError(
                f"{self._where} throws away accounts when its memory is full "
                f"(maxmemory-policy {info['maxmemory_policy']}): set it to noeviction"
            )
        self._looked_up = True
        if not info.get("aof_enabled"):
            _log.warning(
                "%s keeps no append-only file: a crash of the server loses holds since its last snapshot. "
                "Set `appendonly yes`, and `appendfsync always` to lose none",
                self._where,
            )


def _words(arguments: Sequence[Any]) -> Iterator[str]:
    """Arguments as the script reads them: "" for None, microseconds for seconds (floats)."""
    for argument in arguments:
        match argument:
            case None:
                yield ""
            case str():
                yield argument
            case int():
                yield str(int(argument))
            case float():
                yield str(round(argument * 1_000_000))
            case Spec(id, tokens, nano, seconds, window):
                yield from _words((id, tokens, nano, None if seconds is None else float(seconds), window))
            case _:
                yield from _words(argument)


def _number(word: str | None) -> int | None:
    return None if word is None else int(word)


def _seconds(word: str | None) -> float | None:
    return None if word is None else int(word) / 1e6


def _amounts(words: Sequence[str]) -> Iterator[Amount]:
    numbers = list(map(int, words))
    return (Amount(*numbers[at : at + 2]) for at in range(0, len(numbers), 2))


def _hold(found: Sequence[str]) -> StoredHold:
    key, account, tokens, nano, state, charged_tokens, charged_nano, dispatched, left = found
    amount, charged = _amounts((tokens, nano, charged_tokens, charged_nano))
    return StoredHold(key, account, amount, HoldState(state), charged, dispatched == "1", int(left) / 1e6)


def _hold_or_shortage(found: Sequence[str]) -> StoredHold | Shortage:
    kind, *words = found
    if kind == "hold":
        return _hold(words)
    account, unit, needed, available = words
    scale = 1e-6 if unit == "seconds" else 1
    return Shortage(account, unit, int(needed) * scale, int(available) * scale)


def _row(found: Sequence[Any]) -> tuple[AccountRow, float | None]:
    """An account, and the seconds that it has left."""
    id, parent, tokens, nano, seconds, window, closed, left, *numbers = found
    spec = Spec(id, _number(tokens), _number(nano), _seconds(seconds), window)
    spent, held, own, past = _amounts(numbers)
    row = AccountRow(spec, parent, "", None, 0.0, spent, held, own, past, closed is not None)
    return row, _seconds(left)


def _accounts(found: Sequence[Sequence[Any]]) -> list[StoredAccount]:
    rows = map(_row, found)
    return [StoredAccount(row.spec, row.spent, row.held, left, row.closed, row.past) for row, left in rows]


def _holds(found: Sequence[Sequence[str]]) -> list[StoredHold]:
    return list(map(_hold, found))


def _check(found: Sequence[Sequence[Any]]) -> None:
    accounts, holds = found
    check_sums([_row(account)[0] for account in accounts], _holds(holds))


_READ: dict[str, Callable[[Any], Any]] = {
    "hold": _hold_or_shortage,
    "dispatch": bool,
    "settle": _hold,
    "refund": _hold,
    "renew": set,
    "expire": _holds,
    "forget": bool,
    "read_accounts": _accounts,
    "holds": _holds,
    "live": _holds,
    "check": _check,
}
"""Answers of the script -> answers of the steps; a step without an entry has no answer."""

_REFUSALS: dict[str, Callable[..., Exception]] = {
    "account": unknown_account,
    "hold": unknown_hold,
    "key": key_in_use,
    "old": not_replaceable,
    "closed": account_closed,
    "parent": other_parent,
}
"""What the script refuses -> the error."""
