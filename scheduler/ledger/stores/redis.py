"""The ledger in Redis or Valkey: fast, shared by many hosts, and only as durable as that server is set up.

Every step is one run of `redis.lua`, which the server executes whole, on its own clock. Steps that wait leave
together (`group_commit.py`): the server syncs its file once for all that came in one piece. All keys are in
one slot (their names start with `{elastic}`), so a node of a cluster serves as well as a server by itself.

What it can lose. With `appendonly yes` and `appendfsync always` a step is on the server's disk when it is
acknowledged, and a killed server comes back with all of them. Anything less loses acknowledged steps:

- `appendfsync everysec` (what Redis does unless told): up to about two seconds of them in a crash of the
  machine; a crash of the server alone loses nothing that it had handed to the kernel.
- no append-only file: everything since the last snapshot, in any crash. The store warns of it, once.
- failover to a replica, Sentinel's or a cluster's: what had not been replicated yet. Replication is
  asynchronous; no setting here closes that gap, `WAIT` makes it smaller.

A lost hold is money: its call is under way, and its room is given to another. A lost settle is only a hold
that ends with its lease, charged in full. Who can't have that takes PostgreSQL. Redis is for those who have
one anyway, and either run it without failover or can bear that the calls of a moment go over the cap.

Values stay below 2^53 (9 million dollars; 9e15 tokens): numbers in the script are doubles.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from elastic_agent.errors import StoreError, StoreUnavailableError, StoreVersionError, TaskClosedError

from .. import clocks
from ..accounts import HoldState
from ..amounts import NOTHING, Amount, Shortage
from .base import RETENTION, BaseStore
from .group_commit import GroupCommit
from .ledger_time import LedgerTime, Mark, behind, forgot
from .protocol import Level, Spec, StoredHold
from .transitions import Transitions, no_account, no_hold

_SCRIPT = Path(__file__).with_name("redis.lua").read_text()
_BATCH = 500  # holds that one script renews: a script keeps everybody else waiting

P = ParamSpec("P")
T = TypeVar("T")

# What to do about it, by the word that a server's error starts with.
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
        timeout: seconds that one step may take, its wait for those before it included.
        name: of this ledger; several can share a server.
        clock, elapsed: of this machine; see `LedgerTime`.
        retention: seconds for which ended holds and closed accounts are kept, for those who ask again.
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
        self._redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            redis_connect_func=self._connected,
            # After a restart of the server the connection is dead and says so at its next use. Any step can
            # be repeated, so one that finds that out goes again, once.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._script = self._redis.register_script(_SCRIPT)
        self._commits: GroupCommit[tuple[str, ...]] = GroupCommit(
            "ledger", self._together, done=self._redis.close, timeout=timeout
        )
        self._root = f"{{{name}}}"
        self._looked_at = False

    async def _run(
        self, step: Callable[Concatenate[Transitions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The step of this name, as the script has it."""
        return cast("T", await getattr(self, f"_{step.__name__}")(*args, **kwargs))

    def _later(
        self, step: Callable[Concatenate[Transitions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        key, *amounts = cast("tuple[Any, ...]", args)
        return self._commits.later(
            (step.__name__, key, *(word for each in amounts for word in _amount(each)))
        )

    def _read(self, answer: Any) -> StoredHold:
        return _stored(answer)

    async def _open(self, path: Sequence[Spec]) -> None:
        words: list[str] = []
        for spec in path:
            seconds = "" if spec.seconds is None else str(_micro(spec.seconds))
            words += [spec.id, _number(spec.tokens), _number(spec.nano), seconds, spec.window or ""]
        await self._step("open", *words)

    async def _set_caps(self, account: str, tokens: int | None, nano: int | None) -> None:
        await self._step("set_caps", account, _number(tokens), _number(nano))

    async def _hold(
        self,
        key: str,
        account: str,
        amount: Amount,
        lease: float,
        seconds: float,
        dispatched: bool,
        instead_of: str | None,
    ) -> StoredHold | Shortage:
        times = str(_micro(lease)), str(_micro(seconds))
        kind, *found = await self._step(
            "hold", key, account, *_amount(amount), *times, str(int(dispatched)), instead_of or ""
        )
        if kind == "hold":
            return _stored(found)
        owner, unit, needed, available = found
        scale = 1e-6 if unit == "seconds" else 1
        return Shortage(owner, unit, int(needed) * scale, int(available) * scale)

    async def _dispatch(self, key: str) -> bool:
        return bool(await self._step("dispatch", key) == ["1"])

    async def _settle(self, key: str, actual: Amount) -> StoredHold:
        return _stored(await self._step("settle", key, *_amount(actual)))

    async def _refund(self, key: str) -> StoredHold:
        return _stored(await self._step("refund", key))

    async def _renew(self, keys: Sequence[str], lease: float) -> set[str]:
        ended = set[str]()
        for at in range(0, len(keys), _BATCH):
            ended.update(await self._step("renew", str(_micro(lease)), *keys[at : at + _BATCH]))
        return ended

    async def _expire(self, most: int) -> list[StoredHold]:
        return [_stored(found) for found in await self._step("expire", str(most))]

    async def _forget(self, most: int, retention: float) -> bool:
        return bool(await self._step("forget", str(most), str(_micro(retention))) == ["1"])

    async def _set_time(self) -> None:
        self._time.set()
        await self._step("set_time")

    async def _close(self, account: str) -> None:
        await self._step("close", account)

    async def _books(self, account: str) -> list[Level]:
        return [_level(found) for found in await self._step("books", account)]

    async def _holds(self, account: str | None) -> list[StoredHold]:
        words = ("all_holds",) if account is None else ("holds", account)
        return [_stored(found) for found in await self._step(*words)]

    async def _live(self, account: str) -> list[StoredHold]:
        return [_stored(found) for found in await self._step("live", account)]

    async def _check(self) -> None:
        accounts, live = await self._step("all")
        levels = {found[0]: _level(found) for found, _, _ in accounts}
        held = dict.fromkeys(levels, NOTHING)
        charged, total = dict[str, Amount](), dict[str, Amount]()
        for (id, *_), _, kept in accounts:
            own_tokens, own_nano, past_tokens, past_nano = map(int, kept)
            charged[id] = Amount(own_tokens, own_nano)
            total[id] = levels[id].spent + Amount(past_tokens, past_nano)
        for hold in map(_stored, live):
            held[hold.account] += hold.amount
            assert not levels[hold.account].closed, f"{hold.account} is closed and hold {hold.key} lives"
        for (id, *_), parent, _ in accounts:
            if parent is not None:
                held[parent] += levels[id].held
                charged[parent] += total[id]
        for id, level in levels.items():
            assert level.held == held[id], f"{id}: holds add up to {held[id]}, the books say {level.held}"
            assert total[id] == charged[id], (
                f"{id}: charges add up to {charged[id]}, the books say {total[id]}"
            )

    async def aclose(self) -> None:
        await self._commits.aclose()

    async def _step(self, *words: str) -> Any:
        try:
            return await self._commits.run(words)
        except TimeoutError as error:
            raise self._said(error) from None

    def _understood(self, answer: Any) -> Any:
        """What the script found, or the error that it means."""
        if isinstance(answer, Exception):
            return self._said(answer)
        kind, found, *more = answer
        if kind == "ok":
            return found
        if kind == "account":
            return no_account(found)
        if kind == "hold":
            return no_hold(found)
        if kind == "forgot":
            return forgot(self._where)
        if kind == "behind":
            return behind(int(found) / 1e6, int(more[0]) / 1e6)
        if kind == "closed":
            return TaskClosedError(found)
        if kind == "version":
            return StoreVersionError(
                f"{self._where} has schema version {found}, newer than this library: upgrade it"
            )
        return StoreError(found)

    def _said(self, error: Exception) -> StoreError:
        if isinstance(error, TimeoutError | redis.TimeoutError):
            return StoreUnavailableError(
                f"{self._where} did not answer within {self._timeout:g} s; the step may have happened"
            )
        # The driver takes the first word off those errors that it has classes for
        word = getattr(error, "status_code", None) or str(error).partition(" ")[0]
        if isinstance(error, ResponseError) and word not in _ADVICE:
            return StoreError(f"{self._where}: {error}")
        advice = _ADVICE.get(word, "is it up, and can it be reached from here?")
        return StoreUnavailableError(f"{self._where}: {error}; {advice}")

    # --------------------------------------------------------------------- on the thread of the group commits

    def _together(self, steps: list[tuple[str, ...]]) -> list[Any]:
        try:
            if not self._looked_at:
                self._look()
            answers = self._piped(steps)
            if any(isinstance(answer, NoScriptError) for answer in answers):  # a new server, or restarted
                self._redis.script_load(self._script.script)
                answers = self._piped(steps)
        except (RedisError, OSError) as error:
            raise self._said(error) from error
        return [self._understood(answer) for answer in answers]

    def _piped(self, steps: list[tuple[str, ...]]) -> list[Any]:
        pipe, time = self._redis.pipeline(transaction=False), self._time
        (earliest, furthest), asked = time.bounds(), time.ticks
        about = (
            str(_micro(earliest)),
            "" if math.isinf(furthest) else str(_micro(furthest)),
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

    def _connected(self, connection: Any) -> None:
        connection.on_connect()
        self.connections += 1

    def _look(self) -> None:
        """At how the server keeps what it is told, once."""
        info = self._redis.info()
        found: list[Any] = self._redis.hmget(self._root, "clock", "boot", "ticks", "ahead")
        latest, boot, ticks, ahead = found
        self._time.found(
            Mark(int(latest or 0) / 1e6, boot or "", float(ticks or 0), float(ahead) if ahead else None)
        )
        self._looked_at = True
        if not info.get("aof_enabled"):
            _log.warning(
                "%s keeps no append-only file: a crash of the server loses holds since its last snapshot. "
                "Set `appendonly yes`, and `appendfsync always` to lose none",
                self._where,
            )
        if info.get("maxmemory") and str(info.get("maxmemory_policy")).startswith("allkeys"):
            self._looked_at = False
            raise StoreError(
                f"{self._where} throws away accounts when its memory is full "
                f"(maxmemory-policy {info['maxmemory_policy']}): set it to noeviction"
            )


def _micro(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _number(value: int | None) -> str:
    """A cap or an amount for the script."""
    return "" if value is None else str(int(value))


def _amount(amount: Amount) -> tuple[str, str]:
    return _number(amount.tokens), _number(amount.nano)


def _stored(found: Sequence[Any]) -> StoredHold:
    key, account, tokens, nano, state, charged_tokens, charged_nano, dispatched, left = found
    return StoredHold(
        key,
        account,
        Amount(int(tokens), int(nano)),
        HoldState(state),
        Amount(int(charged_tokens), int(charged_nano)),
        dispatched == "1",
        int(left) / 1e6,
    )


def _level(found: Sequence[Any]) -> Level:
    id, tokens, nano, seconds, window, *books = found[:9]
    left, closed, *past = found[9:13]
    spent_tokens, spent_nano, held_tokens, held_nano = map(int, books)
    seconds, left = (None if time is None else int(time) / 1e6 for time in (seconds, left))
    tokens, nano = (None if cap is None else int(cap) for cap in (tokens, nano))
    spec = Spec(id, tokens, nano, seconds, window)
    return Level(
        spec,
        Amount(spent_tokens, spent_nano),
        Amount(held_tokens, held_nano),
        left,
        closed is not None,
        Amount(*map(int, past)),
    )
