"""The ledger in an SQLite file: every process of one machine, no server. The embedded default.

One thread owns the connection, a `GroupCommit`: all steps that wait run in one transaction (`BEGIN
IMMEDIATE`: one writer at a time, also among processes), so that parallel tasks share a commit. If one step
fails, all are rolled back and run again one by one, and each gets its own answer.

What survives: kill -9 at any point loses nothing that was acknowledged. With `synchronous="normal"`, the
default, a power cut or a crash of the operating system may lose the steps since the last checkpoint of the
WAL, never half of a step; the ledger can then lie below the meter by the charges of these steps. "full" waits
for the disk at each commit and loses nothing: 0.2 ms a step on a quiet SSD, 4 ms and more on a busy one,
against 0.02 ms.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from elastic_agent.credentials import make_private
from elastic_agent.errors import StoreError, StoreUnavailableError

from .. import clocks
from .base import RETENTION, BaseStore
from .group_commit import GroupCommit
from .ledger_time import LedgerTime
from .refusals import ledger_replaced
from .sql_repository import MARK, SqlRepository, Values, mark_of, migrate
from .transitions import Transitions

T = TypeVar("T")

Job = tuple[Callable[..., Any], tuple[Any, ...]]
"""A step and its arguments."""

WRITE_MARK = "UPDATE elastic_ledger SET latest = :now, boot = :boot, ticks = :ticks, ahead = :ahead"


_PARENTS: list[Any] = []
"""Connections of the process that this process was forked from."""


class SqliteRepository(SqlRepository):
    """One transaction, which has the file to itself."""

    def __init__(self, connection: sqlite3.Connection, time: LedgerTime) -> None:
        self._cursor = connection.cursor()
        self._time = time
        self._mark, self.generation = mark_of(self.run(MARK)[0])
        self._now: float | None = None

    def run(self, sql: str, values: Values | list[Values] | None = None) -> list[Any]:
        if isinstance(values, list):
            self._cursor.executemany(sql, values)
            return []
        self._cursor.execute(sql, values or {})
        return self._cursor.fetchall()

    def lock(self, account: str) -> float:
        return self.now()

    def now(self) -> float:
        if self._now is None:
            time, mark = self._time, self._mark
            self._now = now = time.now(mark)
            if now >= mark.latest + 1 or (time.ahead is None) != (mark.ahead is None):
                values = {"now": now, "boot": clocks.boot(), "ticks": time.ticks, "ahead": time.ahead}
                self.run(WRITE_MARK, values)
        return self._now

    def clock(self) -> float:
        self._time.set()
        return self._time.clock()


class SqliteStore(BaseStore):
    """A ledger in a file.

    Args:
        path: the file; made if it isn't there. On a local disk: SQLite's locks don't work on network drives.
        synchronous: "normal" or "full"; see the module.
        timeout: seconds that a step waits for other processes.
        clock, elapsed: see `LedgerTime`; the same for every process.
        retention: seconds for which ended holds and closed accounts are kept.
    """

    name = "sqlite"

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: Literal["normal", "full"] = "normal",
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] | None = None,
        retention: float = RETENTION,
    ) -> None:
        super().__init__(retention)
        if synchronous not in ("normal", "full"):
            raise StoreError(f"synchronous is 'normal' or 'full', not {synchronous!r}")
        self._path, self._synchronous, self._timeout = Path(path), synchronous, timeout
        self._time, self._generation = LedgerTime(clock, elapsed), ""
        self._file: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._commits: GroupCommit[Job] = GroupCommit(
            f"ledger {path}", self._together, disconnect=self._disconnect, forked=self._after_fork
        )

    async def _run(self, step: Callable[..., T], *args: Any) -> T:
        return cast("T", await self._commits.run((step, args)))

    def _later(self, step: Callable[..., T], *args: Any) -> Future[T]:
        return self._commits.later((step, args))

    async def aclose(self) -> None:
        """Finish the steps that wait, and close the file."""
        await self._commits.aclose()

    def _after_fork(self) -> None:
        """Leave the parent's connection open: SQLite's locks would break if this process closed it."""
        _PARENTS.append(self._connection)
        self._connection = None

    # On the thread of the group commits

    def _together(self, jobs: list[Job]) -> list[Any]:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            answers = self._steps(connection, jobs)
        except sqlite3.Error as error:
            connection.rollback()
            if len(jobs) > 1:  # then each step is tried by itself
                raise
            raise self._failed(error) from error
        except BaseException:
            connection.rollback()
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return answers

    def _steps(self, connection: sqlite3.Connection, jobs: list[Job]) -> list[Any]:
        repository = SqliteRepository(connection, self._time)
        self._generation = self._generation or repository.generation
        if repository.generation != self._generation:
            raise ledger_replaced(f"the file {self._path}")
        return [step(Transitions(repository), *args) for step, args in jobs]

    def _connected(self) -> sqlite3.Connection:
        """The file's connection; a new one if the file was replaced: a deleted file still takes steps."""
        if (there := self._there()) != self._file:
            self._disconnect()
            if there is None and self._generation:
                raise ledger_replaced(f"the file {self._path}, which is gone,")
        if self._connection is None:
            with suppress(OSError):  # SQLite says what is wrong with the file
                make_private(self._path)  # its WAL is made with the same mode
            self._connection, self._file = self._open(), self._there()
            self.connections += 1
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._timeout, check_same_thread=False, isolation_level=None
        )
        try:
            self._prepare(connection)
            connection.execute("BEGIN IMMEDIATE")
            migrate(connection, str(self._path))
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _there(self) -> tuple[int, int] | None:
        """Which file is at the path; None: no file."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _disconnect(self) -> None:
        """The next step opens the file anew: it may have been moved, replaced or brought back."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """WAL: readers don't wait, and a commit is one append. Turning it on does not honour the timeout."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    def _failed(self, error: sqlite3.Error) -> StoreError:
        """Let go of the file, and say why in the store's words."""
        self._disconnect()
        what = str(error)
        if "locked" in what or "busy" in what:
            hint = f"another process kept it for more than {self._timeout} s; a longer `timeout` waits longer"
        elif "full" in what:
            hint = "make room on its disk"
        elif "unable to open" in what or "readonly" in what or "read-only" in what:
            hint = "its folder must exist, and file and folder be writable"
        elif isinstance(error, sqlite3.OperationalError):
            hint = "see to its disk; the next step tries again"
        else:
            return StoreError(f"the ledger {self._path}: {what}; is it an SQLite file of this library?")
        return StoreUnavailableError(f"the ledger {self._path} did not take a step: {what}; {hint}")
