"""The ledger on a PostgreSQL server: many processes and hosts. Its clock is the server's.

`hold`, `dispatch`, `settle` and `refund` are each one call of a function on the server (migrations.py). They
go through a `GroupCommit`: steps that wait leave in one pipeline, which is one round trip and one durable
commit; if one step fails, each goes again by itself. The other steps run as in `Transitions`, in a
transaction each, on a few threads with a connection each.

What survives depends on the server's settings (`synchronous_commit`, replication). With its defaults a crash
or a power cut loses nothing that was acknowledged; a failover to an asynchronous replica may.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from psycopg import IsolationLevel

from elastic_agent.errors import StoreUnavailableError

from .. import clocks
from ..amounts import NOTHING, Shortage
from .base import RETENTION, BaseStore
from .group_commit import GroupCommit
from .ledger_time import LedgerTime
from .postgres_connections import Connections, Job, pyformat
from .protocol import StoredHold
from .sql_repository import HOLD, MARK, SqlRepository, Values, hold_row, mark_of, migrate
from .transitions import Transitions, stored_hold

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
    """A step as a call of a function: the statement, its values, and how its one row is read."""

    sql: str
    values: Values
    read: Callable[[Sequence[Any]], Any]


def _call(step: object, args: Sequence[Any]) -> Call:
    """The call for one of the steps in `CALLED`."""
    if step is Transitions.hold:
        key, account, amount, lease, seconds, dispatched, instead_of = args
        values = {"key": key, "account": account, **amount._asdict(), "lease": lease, "seconds": seconds}
        return Call(HOLD_CALL, values | {"dispatched": dispatched, "instead_of": instead_of}, _held)
    if step is Transitions.dispatch:
        return Call(DISPATCH_CALL, {"key": args[0]}, lambda row: bool(row[0]))
    how, charge = ("settled", args[1]) if step is Transitions.settle else ("refunded", NOTHING)
    return Call(END_CALL, {"key": args[0], "how": how, **charge._asdict()}, _shown)


def _lock_trees(calls: Sequence[Call]) -> Call:
    """Lock the trees of a whole batch, in the order in which all batches lock trees."""
    accounts = [call.values["account"] for call in calls if "account" in call.values]
    keys = [call.values["key"] for call in calls if "account" not in call.values]
    return Call(LOCK_CALL, {"accounts": accounts, "keys": keys}, lambda row: None)


def _expire(steps: Transitions, most: int) -> list[StoredHold]:
    """Stands for `Transitions.expire`: the server has a function for it."""
    repository = cast("PostgresRepository", steps.repository)
    return [_shown(row) for row in repository.run(EXPIRE_CALL, {"most": most})]


CALLED: tuple[object, ...] = (
    Transitions.hold,
    Transitions.dispatch,
    Transitions.settle,
    Transitions.refund,
)
"""Steps that are calls of a function on the server."""
VIEWS: tuple[object, ...] = (Transitions.read_accounts, Transitions.holds, Transitions.check)
"""Steps that see one moment: repeatable read."""


class PostgresStore(BaseStore):
    """A ledger on a server.

    Args:
        url: "postgresql://user:password@host:port/database"; its role may create tables and functions, at
            least when the first process of a new version opens it.
        connections: for reading and sweeping, beside the one connection for holding and settling.
        timeout: seconds for each step, waiting for a free connection included; also the server's own
            `statement_timeout`. None: for ever.
        clock, elapsed: of this machine; see `LedgerTime`.
        retention: seconds for which ended holds and closed accounts are kept.

    Raises:
        StoreError: the URL is not one of a database.
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
        self._thread_count = connections
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="ledger")
        self._jobs: set[Job] = set()
        self._batch = Job()
        self._batch_connection: Any = None  # the group commit's connection
        self._ready = False
        self._commits: GroupCommit[Call] = GroupCommit(
            "ledger",
            self._together,
            disconnect=self._disconnect,
            forked=self._after_fork,
            timeout=timeout,
            cut=lambda: self._batch.give_up(),
        )

    async def _run(self, step: Callable[..., T], *args: Any) -> T:
        try:
            if step in CALLED:
                return cast("T", await self._commits.run(_call(step, args)))
            return await self._in_transaction(step, *args)
        except TimeoutError:
            raise StoreUnavailableError(
                f"{self._where} did not answer within {self._timeout} s: it hangs, is overloaded or out of "
                "reach; the step may have happened, and asking again under the same key finds out"
            ) from None

    def _later(self, step: Callable[..., T], *args: Any) -> Future[T]:
        return self._commits.later(_call(step, args))

    async def _in_transaction(self, step: Callable[..., T], *args: Any) -> T:
        """A step in a transaction of its own."""
        job = Job()

        def once() -> T:
            self._migrate(job)
            with self._connections.use(job) as connection:
                connection.isolation_level = IsolationLevel.REPEATABLE_READ if step in VIEWS else None
                with connection.transaction():
                    if step is Transitions.set_time:
                        self._time.set()
                    else:
                        begin = self._begin()
                        begin.read(connection.execute(*_sent(begin)).fetchone())
                    here = _expire if step is Transitions.expire else step
                    return cast("T", here(Transitions(PostgresRepository(connection)), *args))

        answer = self._threads.submit(self._connections.retried, job, once)
        self._jobs.add(job)
        answer.add_done_callback(lambda _: self._jobs.discard(job))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), self._timeout)
        except asyncio.CancelledError:
            if self._timeout is not None:
                asyncio.get_running_loop().call_later(self._timeout, job.give_up)
            raise
        except TimeoutError:
            job.give_up()
            raise

    def _after_fork(self) -> None:
        """Leave the parent's connections and threads alone. (psycopg closes no connection of a parent.)"""
        self._threads = ThreadPoolExecutor(self._thread_count, thread_name_prefix="ledger")
        self._jobs, self._batch, self._batch_connection = set(), Job(), None
        self._connections.forget()

    async def aclose(self) -> None:
        """Finish the steps that run, or give them up after the store's timeout, and close the connections."""
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
        """The call before a transaction's steps: what this process knows of the ledger, for the server."""
        time = self._time
        (earliest, latest), asked = time.bounds(), time.ticks
        ahead = "-" if time.ahead is None else repr(time.ahead)
        about = f"{earliest!r} {latest!r} {clocks.boot()} {asked!r} {ahead}"

        def read(row: Sequence[Any]) -> None:
            now, clock, generation = row
            time.heard(now, clock, asked)
            self._generation = self._generation or generation

        return Call(BEGIN_CALL, {"asked": about, "known": self._generation}, read)

    # On the thread of the group commits

    def _together(self, calls: list[Call]) -> list[Any]:
        job = self._batch = Job()
        return self._connections.retried(job, lambda: self._pipeline(job, calls))

    def _pipeline(self, job: Job, calls: list[Call]) -> list[Any]:
        """The answers of a batch. The statements of a pipeline are one transaction, without a BEGIN."""
        self._migrate(job)
        there = self._batch_connection is not None
        if not there:
            self._batch_connection = self._connections.connect()
            self.connections += 1
        driver = self._batch_connection
        try:
            with job.on(driver):
                if not there:
                    # Otherwise a statement about an array is planned anew at each run, for 0.2 ms.
                    driver.execute("SET plan_cache_mode = force_generic_plan")
                begin = self._begin()
                with driver.pipeline():
                    begun = driver.execute(*_sent(begin), prepare=True)
                    if len(calls) > 1:
                        driver.execute(*_sent(_lock_trees(calls)), prepare=True)
                    answers = [driver.execute(*_sent(call), prepare=True) for call in calls]
                begin.read(begun.fetchone())
                return [call.read(answer.fetchone()) for call, answer in zip(calls, answers, strict=True)]
        except BaseException:
            if driver.closed or not there:
                job.lost = there
                self._disconnect()
            raise

    def _disconnect(self) -> None:
        """Close the group commit's connection, whose settings are its own: no other step may use it."""
        if self._batch_connection is not None:
            connection, self._batch_connection = self._batch_connection, None
            connection.close()


def _sent(call: Call) -> tuple[str, Values]:
    return pyformat(call.sql), call.values


def _held(row: Sequence[Any]) -> StoredHold | Shortage:
    """From a hold's columns, the time, and the columns of a shortage."""
    where, unit, needed, available = row[-4:]
    return _shown(row[:-4]) if where is None else Shortage(where, unit, needed, available)


def _shown(row: Sequence[Any]) -> StoredHold:
    """From a hold's columns and the time."""
    return stored_hold(hold_row(row[:-1]), row[-1])
