"""The ledger on a PostgreSQL server: many processes and hosts. Its clock is the server's.

`hold`, `dispatch`, `settle` and `refund` are each one call of a function on the server (schema.py). They go
through a `GroupCommit`: those that wait leave in one pipeline, which is one round trip and one durable
commit, in any number; where one of them fails, each goes again by itself. The rest are the shared steps, in a
transaction each, on a few threads with a connection each.

A connection that broke is made anew and the step asked again, which is safe, since every step may be
repeated: if the server has it already, it says so. A step that the server does not answer in time is given
up and its connection cut, so that its thread is free for others.

What survives: as much as the server's own settings let survive (`synchronous_commit`, replication). As it
comes, a crash or a power cut loses nothing that was acknowledged; a failover to an asynchronous replica may.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, create_engine, event, exc, make_url

from elastic_agent.errors import StoreError, StoreUnavailableError

from .. import clocks
from ..amounts import NOTHING, Amount, Shortage
from .base import RETENTION, BaseStore
from .group_commit import GroupCommit
from .ledger_time import LedgerTime, behind, forgot
from .protocol import StoredHold
from .sql import (
    HOLD,
    MARK,
    SqlRepository,
    Values,
    hold_row,
    mark_of,
    migrate,
)
from .transitions import (
    Transitions,
    closed,
    no_account,
    no_hold,
    not_instead,
    other_hold,
    shown,
)

P = ParamSpec("P")
T = TypeVar("T")

REFUSALS = {"EA001": no_account, "EA002": no_hold, "EA003": other_hold, "EA004": not_instead, "EA005": closed}
"""What the functions raise, about which account or hold."""

AGAIN = ("40001", "40P01", "23505")
"""Serialisation failure, deadlock, and a row that somebody else inserted first: run the step again."""

TRIES = 10
MIGRATING = 0x656C6173746963  # the key of the lock under which one process migrates: "elastic"

H = ", ".join(f"(f.h).{name}" for name in HOLD.split(", "))
HOLD_CALL = f"""SELECT {H}, f.now, f.lack_account, f.lack_unit, f.lack_needed, f.lack_available
    FROM elastic_hold(:key, :account, :tokens, :nano, :lease, :seconds, :dispatched, :instead_of) f"""
END_CALL = f"SELECT {H}, f.now FROM elastic_end(:key, :how, :tokens, :nano) f"
DISPATCH_CALL = "SELECT elastic_dispatch(:key)"
BEGIN_CALL = "SELECT now, clock, generation FROM elastic_begin(:asked, :known)"
LOCK_CALL = "SELECT elastic_lock_trees(:accounts, :keys)"
EXPIRE_CALL = f"SELECT {H}, f.now FROM elastic_expire(:most) f"


class Job:
    """One step on its way to the server and back, which somebody else may give up.

    Attributes:
        over: it was given up: nobody waits for it.
    """

    def __init__(self) -> None:
        self.over = False
        self._lock = threading.Lock()
        self._connection: Any = None

    @contextmanager
    def on(self, driver: Any) -> Iterator[None]:
        """The step has this connection of the driver's to itself."""
        with self._lock:
            if self.over:
                raise StoreUnavailableError("the step was given up before it was sent")
            self._connection = driver
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def give_up(self) -> None:
        """Cut the connection that it waits on: libpq itself would wait for as long as the peer is there."""
        with self._lock:
            self.over = True
            if self._connection is not None and not self._connection.closed:
                with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)


class PostgresRepository(SqlRepository):
    """One transaction on the server."""

    for_update = " FOR UPDATE"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, sql: str, values: Values | list[Values] | None = None) -> list[Any]:
        result = self._connection.exec_driver_sql(_pyformat(sql), values)
        return list(result) if result.returns_rows else []

    def lock(self, account: str) -> float:
        root = "SELECT root FROM elastic_accounts WHERE id = :account"
        locked = f"SELECT 1 FROM elastic_accounts WHERE id = ({root}) FOR NO KEY UPDATE"
        self.run(locked, {"account": account})
        return self.now()

    def now(self) -> float:
        return float(self.run("SELECT elastic_now()")[0][0])

    def clock(self) -> float:
        return float(self.run("SELECT elastic_clock()")[0][0])


@dataclass(frozen=True, slots=True)
class Call:
    """A step as a call of a function: what is sent, what is made of the one row that comes back.

    Attributes:
        account: that it is about, if that is known before.
    """

    sql: str
    values: Values
    read: Callable[[Sequence[Any]], Any]
    account: str | None = None


def _hold(
    key: str,
    account: str,
    amount: Amount,
    lease: float,
    seconds: float,
    dispatched: bool,
    instead_of: str | None,
) -> Call:
    asked = {"key": key, "account": account, "tokens": amount.tokens, "nano": amount.nano}
    asked |= {"lease": lease, "seconds": seconds, "dispatched": dispatched, "instead_of": instead_of}
    return Call(HOLD_CALL, asked, _held, account)


def _dispatch(key: str) -> Call:
    return Call(DISPATCH_CALL, {"key": key}, lambda row: bool(row[0]))


def _settle(key: str, actual: Amount) -> Call:
    return _end(key, "settled", actual)


def _refund(key: str) -> Call:
    return _end(key, "refunded", NOTHING)


def _locked(calls: Sequence[Call]) -> Call:
    """All trees of a batch, in the order in which everybody locks them."""
    accounts = [call.account for call in calls if call.account is not None]
    keys = [call.values["key"] for call in calls if call.account is None]
    return Call(LOCK_CALL, {"accounts": accounts, "keys": keys}, lambda row: None)


def _end(key: str, how: str, actual: Amount) -> Call:
    return Call(END_CALL, {"key": key, "how": how, "tokens": actual.tokens, "nano": actual.nano}, _shown)


def _expire(steps: Transitions, most: int) -> list[StoredHold]:
    repository = cast("PostgresRepository", steps.repository)
    return [_shown(row) for row in repository.run(EXPIRE_CALL, {"most": most})]


CALLS: dict[object, Callable[..., Call]] = {
    Transitions.hold: _hold,
    Transitions.dispatch: _dispatch,
    Transitions.settle: _settle,
    Transitions.refund: _refund,
}
INSTEAD: dict[object, Callable[..., Any]] = {Transitions.expire: _expire}
"""What stands here for a shared step: the server has a function for it."""
VIEWS: tuple[object, ...] = (Transitions.books, Transitions.holds, Transitions.check)
"""Steps that see one moment: repeatable read."""


class PostgresStore(BaseStore):
    """A ledger on a server.

    Args:
        url: "postgresql://user:password@host:port/database"; its role may create tables and functions, at
            least when the first process of a new version opens it.
        connections: for looking and sweeping, beside the one that holds and settles.
        timeout: seconds for each step, waiting for a free connection included; also the server's own
            `statement_timeout`. None: for ever.
        clock, elapsed: of this machine; see `LedgerTime`.
        retention: seconds for which ended holds and closed accounts are kept.

    Raises:
        StoreError: the driver is not installed, or the URL is none.
    """

    name = "postgres"

    def __init__(
        self,
        url: str,
        *,
        connections: int = 2,
        timeout: float | None = 5.0,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] | None = None,
        retention: float = RETENTION,
    ) -> None:
        super().__init__(retention)
        self._time, self._generation = LedgerTime(clock, elapsed, server=True), ""
        self._timeout = timeout
        try:
            where = make_url(url).set(drivername="postgresql+psycopg")
            self._engine = create_engine(
                where,
                pool_size=connections + 1,
                max_overflow=0,
                pool_reset_on_return=None,
                connect_args=_patience(timeout),
            )
        except ImportError:
            raise StoreError("PostgreSQL needs its driver: pip install 'elastic-agent[postgres]'") from None
        except exc.ArgumentError as error:
            raise StoreError(
                f"{url!r}: {error}; it looks like postgresql://user@host:5432/database"
            ) from None
        self._driver: Any = self._engine.dialect.dbapi
        self._where = where.set(drivername="postgresql").render_as_string(hide_password=True)
        self._view = self._engine.execution_options(isolation_level="REPEATABLE READ")
        # Each step has its indexes; a plan that was made while a table was small would outlive that. What has
        # no index (one row, everything) then looks so dear that the server would compile it, for 20 ms.
        settings = "SET enable_seqscan = off; SET jit = off"
        if timeout is not None:
            settings += f"; SET statement_timeout = {math.ceil(timeout * 1000)}"
        event.listen(self._engine, "connect", lambda connection, _: _at_once(connection, settings))
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="ledger")
        self._jobs: set[Job] = set()
        self._commits: GroupCommit[Call] = GroupCommit(
            "ledger",
            self._together,
            done=self._disconnect,
            timeout=timeout,
            cut=lambda: self._batch.give_up(),
        )
        self._batch = Job()
        self._line: Any = None  # the group commit's connection
        self._line_lost = False
        self._ready = False

    async def _run(
        self, step: Callable[Concatenate[Transitions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            if step in CALLS:
                return cast("T", await self._commits.run(CALLS[step](*args, **kwargs)))
            return await self._beside(step, *args, **kwargs)
        except TimeoutError:
            raise StoreUnavailableError(
                f"{self._where} did not answer within {self._timeout} s: it hangs, is overloaded or out of "
                "reach; the step may have happened, and asking again under the same key finds out"
            ) from None

    def _later(
        self, step: Callable[Concatenate[Transitions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        return self._commits.later(CALLS[step](*args, **kwargs))

    async def _beside(
        self, step: Callable[Concatenate[Transitions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A step in a transaction of its own."""
        job, engine = Job(), self._view if step in VIEWS else self._engine

        def once() -> T:
            self._migrate(job)
            with engine.begin() as connection, job.on(connection.connection.driver_connection):
                if step is Transitions.set_time:
                    self._time.set()
                else:
                    begin = self._begin()
                    begin.read(next(iter(connection.exec_driver_sql(*_sent(begin)))))
                here = cast("Callable[..., T]", INSTEAD.get(step, step))
                return here(Transitions(PostgresRepository(connection)), *args, **kwargs)

        answer = self._threads.submit(self._tried, job, once)
        self._jobs.add(job)
        answer.add_done_callback(lambda _: self._jobs.discard(job))
        try:
            return cast("T", await asyncio.wait_for(asyncio.wrap_future(answer), self._timeout))
        except asyncio.CancelledError:
            if self._timeout is not None:
                asyncio.get_running_loop().call_later(self._timeout, job.give_up)
            raise
        except TimeoutError:
            job.give_up()
            raise

    async def aclose(self) -> None:
        """Finish what runs, or give it up after the store's timeout, and close the connections."""
        await self._commits.aclose()
        ending = asyncio.ensure_future(asyncio.to_thread(self._threads.shutdown, cancel_futures=True))
        await asyncio.wait([ending], timeout=self._timeout)
        for job in list(self._jobs):
            job.give_up()
        await ending
        self._engine.dispose()

    # On one of the store's threads

    def _tried(self, job: Job, once: Callable[[], T]) -> T:
        """Steps, again where the server says that it was not their fault, and once where it was not there."""
        lost = False
        for _ in range(TRIES):
            try:
                return once()
            except (exc.DBAPIError, self._driver.Error) as error:
                said: Any = error.orig if isinstance(error, exc.DBAPIError) else error
                code = getattr(said, "sqlstate", None)
                if code == "EA006":
                    latest, clock = map(float, str(said.diag.message_primary).split())
                    raise behind(latest, clock) from None
                if code == "EA007":
                    raise forgot(f"what is at {self._where}") from None
                if code in REFUSALS:
                    raise REFUSALS[code](str(said.diag.message_primary)) from None
                if code in AGAIN:
                    continue
                if self._is_lost(error) and not lost and not job.over:
                    lost = True
                    continue
                raise self._said(said, code) from error
        raise StoreUnavailableError(f"{self._where}: {TRIES} times another process was in the way of a step")

    def _is_lost(self, error: Exception) -> bool:
        """Whether its connection is gone."""
        if isinstance(error, exc.DBAPIError):
            return error.connection_invalidated
        return self._line_lost

    def _migrate(self, job: Job) -> None:
        if not self._ready:
            with self._engine.begin() as connection, job.on(connection.connection.driver_connection):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATING})")
                migrate(connection, self._where)
                (row,) = connection.exec_driver_sql(MARK)
                self._time.found(mark_of(row)[0])
            self._ready = True

    def _begin(self) -> Call:
        """What goes before the steps of a transaction: what this process knows of the ledger."""
        time = self._time
        (earliest, furthest), asked = time.bounds(), time.ticks
        ahead = "-" if time.ahead is None else repr(time.ahead)
        about = f"{earliest!r} {furthest!r} {clocks.boot()} {asked!r} {ahead}"

        def read(row: Sequence[Any]) -> None:
            now, clock, generation = row
            time.heard(now, clock, asked)
            self._generation = self._generation or generation

        return Call(BEGIN_CALL, {"asked": about, "known": self._generation}, read)

    # On the thread of the group commits

    def _together(self, calls: list[Call]) -> list[Any]:
        job = self._batch = Job()
        return self._tried(job, lambda: self._piped(job, calls))

    def _piped(self, job: Job, calls: list[Call]) -> list[Any]:
        """What is sent before a pipeline's end is one transaction, without a BEGIN."""
        self._migrate(job)
        self._line_lost, there = False, self._line is not None
        if not there:
            self._line = self._engine.raw_connection()
            self.connections += 1
        driver = self._line.driver_connection
        try:
            with job.on(driver):
                if not there:
                    driver.autocommit = True
                    # Else a statement about an array is planned anew at each run, for 0.2 ms.
                    driver.execute("SET plan_cache_mode = force_generic_plan")
                begin = self._begin()
                with driver.pipeline():
                    begun = driver.execute(*_sent(begin), prepare=True)
                    if len(calls) > 1:
                        driver.execute(*_sent(_locked(calls)), prepare=True)
                    answers = [driver.execute(*_sent(call), prepare=True) for call in calls]
                begin.read(begun.fetchone())
                return [call.read(answer.fetchone()) for call, answer in zip(calls, answers, strict=True)]
        except BaseException:
            if driver.closed or not there:
                self._line_lost = there
                self._disconnect()
            raise

    def _disconnect(self) -> None:
        """Its settings are its own: it never goes back to the pool."""
        if self._line is not None:
            line, self._line = self._line, None
            line.invalidate()

    def _said(self, error: BaseException, code: str | None) -> StoreError:
        what = str(error).strip()
        if code == "57014":
            hint = f"it took longer than {self._timeout} s; a longer `timeout` waits longer"
        elif code is not None and code[:2] == "53":
            hint = "the server has run out of disk, memory or connections: make room there"
        elif code is not None and code[:2] == "28":
            hint = "it refused the login: see to user and password in the URL"
        elif isinstance(error, (self._driver.OperationalError, self._driver.InterfaceError)):
            hint = "start the server, or see to the network between; the next step tries again"
        else:
            return StoreError(f"{self._where}: {what}")
        return StoreUnavailableError(f"{self._where} did not take a step: {what}; {hint}")


def _sent(call: Call) -> tuple[str, Values]:
    return _pyformat(call.sql), call.values


@cache
def _pyformat(sql: str) -> str:
    """A statement with its `:names` as psycopg wants them."""
    return re.sub(r":([a-z_0-9]+)", r"%(\1)s", sql)


def _held(row: Sequence[Any]) -> StoredHold | Shortage:
    """A hold's columns and the time, or what lacks."""
    where, unit, needed, available = row[-4:]
    return _shown(row[:-4]) if where is None else Shortage(where, unit, needed, available)


def _shown(row: Sequence[Any]) -> StoredHold:
    """A hold's columns and the time."""
    return shown(hold_row(row[:-1]), row[-1])


def _patience(timeout: float | None) -> dict[str, Any]:
    """What makes a connection notice that its server is gone (libpq's settings)."""
    if timeout is None:
        return {}
    return {
        "connect_timeout": max(2, math.ceil(timeout)),
        "tcp_user_timeout": math.ceil(timeout * 1000),
        "keepalives_idle": 30,
    }


def _at_once(connection: Any, settings: str) -> None:
    """Settings of a new connection, outside of any transaction."""
    connection.autocommit = True
    connection.execute(settings)
    connection.autocommit = False
