"""Connections to a PostgreSQL server: how they are made, when a step is sent again, what errors mean.

A connection that broke is made anew and the step sent again, which is safe: every step may be repeated, and a
server that has done it already says so. A step that the server does not answer in time is given up and its
connection cut, so that its thread is free for other steps.
"""

from __future__ import annotations

import math
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from elastic_agent.errors import StoreError, StoreUnavailableError

from .ledger_time import clock_is_behind
from .refusals import (
    account_closed,
    key_in_use,
    ledger_replaced,
    not_replaceable,
    unknown_account,
    unknown_hold,
)

T = TypeVar("T")

REFUSALS = {
    "EA001": unknown_account,
    "EA002": unknown_hold,
    "EA003": key_in_use,
    "EA004": not_replaceable,
    "EA005": account_closed,
}
"""Codes that the functions on the server raise, with an account or a key -> the error."""

AGAIN = ("40001", "40P01", "23505")
"""Serialisation failure, deadlock, and a row that another process inserted first: run the step again."""

TRIES = 10


class Job:
    """One step on its way to the server and back, which may be given up meanwhile.

    Attributes:
        over: the step was given up.
        lost: its connection broke.
    """

    def __init__(self) -> None:
        self.over = self.lost = False
        self._lock = threading.Lock()
        self._connection: Any = None

    @contextmanager
    def on(self, connection: Any) -> Iterator[None]:
        """The step has this connection to itself."""
        with self._lock:
            if self.over:
                raise StoreUnavailableError("the step was given up before it was sent")
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def give_up(self) -> None:
        """Cut the step's connection: libpq itself would wait for as long as the peer is there."""
        with self._lock:
            self.over = True
            if self._connection is not None and not self._connection.closed:
                with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)


class Connections:
    """The connections of one store.

    Args:
        url: of the database, as libpq reads it.
        timeout: seconds for each statement; None: for ever.

    Attributes:
        where: the URL, without its password, for messages.

    Raises:
        StoreError: the URL is not one of a database.
    """

    def __init__(self, url: str, timeout: float | None) -> None:
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise StoreError(
                f"{url!r}: {error}; it looks like postgresql://user@host:5432/database"
            ) from None
        self._url, self._timeout = url, timeout
        shown = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", url)
        self.where = re.sub(r"([?&]password=)[^&]*", r"\1***", shown)
        self._idle: list[Any] = []
        # Each step has its indexes; a plan from the time when a table was small would still scan the table.
        # Without scans the server thinks that a read without an index is dear, and compiles it, for 20 ms.
        self._settings = "SET enable_seqscan = off; SET jit = off"
        self._patience: dict[str, Any] = {}
        if timeout is not None:
            self._settings += f"; SET statement_timeout = {math.ceil(timeout * 1000)}"
            # libpq's settings by which a connection notices that its server is gone
            self._patience = {
                "connect_timeout": max(2, math.ceil(timeout)),
                "tcp_user_timeout": math.ceil(timeout * 1000),
                "keepalives_idle": 30,
            }

    def connect(self) -> Any:
        """A new connection, in autocommit mode."""
        connection: Any = psycopg.connect(self._url, autocommit=True, **self._patience)
        connection.execute(self._settings)
        return connection

    @contextmanager
    def use(self, job: Job) -> Iterator[Any]:
        """A connection for one job: an idle one, or a new one."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connect()
        try:
            with job.on(connection):
                yield connection
        finally:
            if connection.closed:
                job.lost = True
                self.close()  # the idle connections are as old
            else:
                self._idle.append(connection)

    def forget(self) -> None:
        """Leave the idle connections to the process that this process was forked from."""
        self._idle = []

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    def retried(self, job: Job, once: Callable[[], T]) -> T:
        """Run steps, again where another process was in their way, and once more where the server was gone.

        Raises:
            StoreError: the server's error in the store's words.
        """
        lost = False
        for _ in range(TRIES):
            try:
                return once()
            except psycopg.Error as error:
                code, said = error.sqlstate, str(error.diag.message_primary)
                if code == "EA006":
                    raise clock_is_behind(*map(float, said.split())) from None
                if code == "EA007":
                    raise ledger_replaced(f"the database at {self.where}") from None
                if code in REFUSALS:
                    raise REFUSALS[code](said) from None
                if code in AGAIN:
                    continue
                if job.lost and not lost and not job.over:
                    lost = True
                    continue
                raise self._to_error(error) from error
        raise StoreUnavailableError(f"{self.where}: {TRIES} times another process was in the way of a step")

    def _to_error(self, error: psycopg.Error) -> StoreError:
        what, code = str(error).strip(), error.sqlstate or ""
        if code == "57014":
            hint = f"it took longer than {self._timeout} s; a longer `timeout` waits longer"
        elif code[:2] == "53":
            hint = "the server has run out of disk, memory or connections: make room there"
        elif code[:2] == "28":
            hint = "it refused the login: see to user and password in the URL"
        elif isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            hint = "start the server, or see to the network between; the next step tries again"
        else:
            return StoreError(f"{self.where}: {what}")
        return StoreUnavailableError(f"{self.where} did not take a step: {what}; {hint}")


@cache
def pyformat(sql: str) -> str:
    """A statement with its `:names` as psycopg wants them."""
    return re.sub(r":([a-z_0-9]+)", r"%(\1)s", sql)
