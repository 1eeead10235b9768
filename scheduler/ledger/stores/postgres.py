"""The ledger on a PostgreSQL server: many processes and hosts. Its clock is the server's.

`hold`, `dispatch`, `settle` and `refund` are each one call of a function on the server (migrations.py). They
go through a `GroupCommit`: those that wait leave in one pipeline, which is one round trip and one durable
commit, in any number; where one of them fails, each goes again by itself. The rest are the shared steps, in a
transaction each, on a few threads with a connection each.

What survives: as much as the server's own settings let survive (`synchronous_commit`, replication). As it
comes, a crash or a power cut loses nothing that was acknowledged; a failover to an asynchronous replica may.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from psycopg import IsolationLevel

from elastic_agent.errors import StoreUnavailableError

from .. import clocks
from ..amounts import NOTHING, Amount, Shortage
from .base import RETENTION, BaseStore
from .group_commit import GroupCommit
from .ledger_time import LedgerTime
from .postgres_connections import Connections, Job, pyformat
from .protocol import StoredHold
from .sql import HOLD, MARK, SqlRepository, Values, hold_row, mark_of, migrate
from .transitions import Transitions, shown

P = ParamSpec("P")
T = TypeVar("T")

MIGRATING = 0x656C6173746963  # the key of the lock under which one process migrates: "elastic"

H = ", ".join(f"(f.h).{name}" for name in HOLD.split(", "))
HOLD_CALL = f"""SELECT {H}, f.now, f.lack_account, f.lack_unit, f.lack_needed, f.lack_available
    FROM elastic_hold(:key, :account, :tokens, :nano, :lease, :seconds, :dispatched, :instead_of) f"""
END_CALL = f"SELECT {H}, f.now FROM elastic_end(:key, :how, :tokens, :nano) f"
DISPATCH_CALL = "SELECT elastic_dispatch(:key)"
BEGIN_CALL = "SELECT now, clock, generation FROM elastic_begin(:asked, :known)"
LOCK_CALL = "SELECT elastic_lock_trees(:accounts, :keys)"
EXPIRE_CALL = f"SELECT {H}, f.now FROM elastic_expire(:most) f"


class PostgresRepository(SqlRepository):
    """One transaction on the server."""

    for_update = " FOR UPDATE"

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor()

    def run(self, sql: str, values: Values | list[Values] | None = None) -> list[Any]:
        if isinstance(values, list):
            self._cursor.executemany(pyformat(sql), values)
            return []
        self._cursor.execute(pyformat(sql), values)
        return cast("list[Any]", self._cursor.fetchall()) if self._cursor.description else []

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
        self._connections = Connections(url, timeout)
        self._where = self._connections.where
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
        job = Job()

        def once() -> T:
            self._migrate(job)
            with self._connections.use(job) as connection:
                connection.isolation_level = IsolationLevel.REPEATABLE_READ if step in VIEWS else None
                return in_transaction(connection)

        def in_transaction(connection: Any) -> T:
            with connection.transaction():
                if step is Transitions.set_time:
                    self._time.set()
                else:
                    begin = self._begin()
                    begin.read(connection.execute(*_sent(begin)).fetchone())
                here = cast("Callable[..., T]", INSTEAD.get(step, step))
                return here(Transitions(PostgresRepository(connection)), *args, **kwargs)

        answer = self._threads.submit(self._connections.retried, job, once)
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
        self._connections.close()

    # On one of the store's threads

    def _migrate(self, job: Job) -> None:
        if not self._ready:
            with self._connections.use(job) as connection, connection.transaction():
                connection.execute(f"SELECT pg_advisory_xact_lock({MIGRATING})")
                migrate(connection, self._where, postgres=True)
                self._time.found(mark_of(connection.execute(MARK).fetchone())[0])
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
        return self._connections.retried(job, lambda: self._piped(job, calls))

    def _piped(self, job: Job, calls: list[Call]) -> list[Any]:
        """What is sent before a pipeline's end is one transaction, without a BEGIN."""
        self._migrate(job)
        there = self._line is not None
        if not there:
            self._line = self._connections.connect()
            self.connections += 1
        driver = self._line
        try:
            with job.on(driver):
                if not there:
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
                job.lost = there
                self._disconnect()
            raise

    def _disconnect(self) -> None:
        """Its settings are its own: it is never used for anything else."""
        if self._line is not None:
            line, self._line = self._line, None
            line.close()


def _sent(call: Call) -> tuple[str, Values]:
    return pyformat(call.sql), call.values


def _held(row: Sequence[Any]) -> StoredHold | Shortage:
    """A hold's columns and the time, or what lacks."""
    where, unit, needed, available = row[-4:]
    return _shown(row[:-4]) if where is None else Shortage(where, unit, needed, available)


def _shown(row: Sequence[Any]) -> StoredHold:
    """A hold's columns and the time."""
    return shown(hold_row(row[:-1]), row[-1])
