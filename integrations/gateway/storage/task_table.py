"""What a client said of a task at its opening, for the other processes: JSON by the task's account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from .tables import RedisTable, SqlTable, in_redis


class TaskTable(Protocol):
    """Keeps what was said of tasks. All methods block, and may be called from any thread."""

    def put(self, account: str, text: str) -> None:
        """Write what was said of a task, over what is there."""
        ...

    def get(self, account: str) -> str | None:
        """What was said of a task; None: nothing."""
        ...

    def delete(self, account: str) -> None:
        """Forget a task."""
        ...

    def close(self) -> None: ...


def open_task_table(where: str) -> TaskTable:
    """The tasks of a ledger; `where` as for `open_store`."""
    return RedisTaskTable(where) if in_redis(where) else SqlTaskTable(where)


class SqlTaskTable(SqlTable):
    """A table in SQLite or PostgreSQL."""

    what = "tasks"

    def _definition(self, *, postgres: bool) -> Sequence[str]:
        return ["CREATE TABLE IF NOT EXISTS elastic_tasks (account TEXT PRIMARY KEY, text TEXT NOT NULL)"]

    def put(self, account: str, text: str) -> None:
        with self._step() as run:
            run(
                "INSERT INTO elastic_tasks VALUES (:account, :text) "
                "ON CONFLICT (account) DO UPDATE SET text = excluded.text",
                {"account": account, "text": text},
            )

    def get(self, account: str) -> str | None:
        with self._step() as run:
            found = run("SELECT text FROM elastic_tasks WHERE account = :account", {"account": account})
            row = found.fetchone()
        return None if row is None else cast("str", row[0])

    def delete(self, account: str) -> None:
        with self._step() as run:
            run("DELETE FROM elastic_tasks WHERE account = :account", {"account": account})


class RedisTaskTable(RedisTable):
    """A hash in the ledger's Redis."""

    what = "tasks"

    def put(self, account: str, text: str) -> None:
        with self._step() as redis:
            redis.hset("{elastic}:tasks", account, text)

    def get(self, account: str) -> str | None:
        with self._step() as redis:
            return cast("str | None", redis.hget("{elastic}:tasks", account))

    def delete(self, account: str) -> None:
        with self._step() as redis:
            redis.hdel("{elastic}:tasks", account)
