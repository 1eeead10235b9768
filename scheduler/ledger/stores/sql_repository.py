"""What SQLite and PostgreSQL share: rows in tables by the same SQL, and bringing the schema up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from elastic_agent.errors import StoreVersionError

from ..accounts import HoldState
from ..amounts import Amount
from .ledger_time import Mark
from .migrations import MIGRATIONS
from .protocol import Spec
from .repository import AccountRow, HoldRow
from .transitions import window_start

FIXED = ("id", "parent", "root", "seconds", "period", "ends")
NUMBERS = tuple(f"{what}_{unit}" for what in ("spent", "held", "own", "past") for unit in ("tokens", "nano"))
MOVING = ("tokens", "nano", "starts", *NUMBERS, "closed", "closed_at")
ACCOUNT = ", ".join(f"a.{name}" for name in (*FIXED, *MOVING))
HOLD = "key, account, tokens, nano, until, dispatched, state, charged_tokens, charged_nano, ended"
PATH = f"""
    WITH RECURSIVE up(id, depth) AS (
        SELECT CAST(:account AS TEXT), 1
        UNION ALL
        SELECT b.parent, up.depth + 1 FROM up JOIN elastic_accounts b ON b.id = up.id
        WHERE b.parent IS NOT NULL
    ) SELECT {ACCOUNT} FROM up JOIN elastic_accounts a ON a.id = up.id ORDER BY up.depth"""
OPEN_BELOW = """
    WITH RECURSIVE down(id) AS (
        SELECT id FROM elastic_accounts WHERE id = :account AND NOT closed
        UNION ALL
        SELECT b.id FROM down JOIN elastic_accounts b ON b.parent = down.id WHERE NOT b.closed
    ) SELECT id FROM down"""
ADD_ACCOUNT = f"""
    INSERT INTO elastic_accounts ({", ".join((*FIXED, *MOVING))})
    VALUES ({", ".join(f":{name}" for name in (*FIXED, *MOVING))})"""
SAVE_ACCOUNT = (
    f"UPDATE elastic_accounts SET {', '.join(f'{name} = :{name}' for name in MOVING)} WHERE id = :id"
)
ADD_HOLD = """
    INSERT INTO elastic_holds VALUES (:key, :account, :tokens, :nano, :until, :dispatched, :state,
        :charged_tokens, :charged_nano, :ended)"""
SAVE_HOLD = """
    UPDATE elastic_holds SET dispatched = :dispatched, state = :state, charged_tokens = :charged_tokens,
        charged_nano = :charged_nano, ended = :ended
    WHERE key = :key"""
# One look into an index for each account: NOT EXISTS might be planned as a join with the whole table.
FINISHED = f"""
    SELECT {ACCOUNT} FROM elastic_accounts a
    WHERE a.closed_at <= :before
        AND (SELECT 1 FROM elastic_holds h WHERE h.account = a.id LIMIT 1) IS NULL
        AND (SELECT 1 FROM elastic_accounts b WHERE b.parent = a.id LIMIT 1) IS NULL
    ORDER BY a.closed_at LIMIT :most"""
MARK = "SELECT latest, boot, ticks, ahead, generation FROM elastic_ledger"
SET_TIME = (
    "UPDATE elastic_ledger SET latest = :now, boot = '', ticks = 0, ahead = NULL",
    "UPDATE elastic_holds SET until = :now WHERE state = 'live'",
    "UPDATE elastic_holds SET ended = :now WHERE ended > :now",
    "UPDATE elastic_accounts SET closed_at = :now WHERE closed_at > :now",
    "UPDATE elastic_accounts SET starts = :day WHERE period = 'day' AND starts > :day",
    "UPDATE elastic_accounts SET starts = :month WHERE period = 'month' AND starts > :month",
)
Values = dict[str, Any]

MANY = 500
"""Names in one statement: SQLite takes 32,766 values at most, older ones 999."""


def account_row(row: Sequence[Any]) -> AccountRow:
    (name, parent, root, seconds, period, ends, tokens, nano, starts, *numbers, closed, closed_at) = row
    spent, held, own, past = (Amount(*numbers[i : i + 2]) for i in (0, 2, 4, 6))
    spec = Spec(name, tokens, nano, seconds, period)
    return AccountRow(spec, parent, root, ends, starts, spent, held, own, past, bool(closed), closed_at)


def account_values(row: AccountRow) -> Values:
    spec = row.spec
    values = {"id": spec.id, "parent": row.parent, "root": row.root, "seconds": spec.seconds}
    values |= {"period": spec.window, "ends": row.ends, "starts": row.starts, "closed": row.closed}
    values |= {"tokens": spec.tokens, "nano": spec.nano, "closed_at": row.closed_at}
    for name in ("spent", "held", "own", "past"):
        values[f"{name}_tokens"], values[f"{name}_nano"] = getattr(row, name)
    return values


def hold_row(row: Sequence[Any]) -> HoldRow:
    key, account, tokens, nano, until, dispatched, state, charged_tokens, charged_nano, ended = row
    amount, charged = Amount(tokens, nano), Amount(charged_tokens, charged_nano)
    return HoldRow(key, account, amount, until, bool(dispatched), HoldState(state), charged, ended)


def hold_values(row: HoldRow) -> Values:
    values: Values = {"key": row.key, "account": row.account, **row.amount._asdict(), "until": row.until}
    values |= {"dispatched": row.dispatched, "state": row.state.value, "ended": row.ended}
    values["charged_tokens"], values["charged_nano"] = row.charged
    return values


class SqlRepository:
    """Rows in tables, seen through one transaction. A subclass runs statements, locks, and says the time."""

    for_update = ""
    """Ends a SELECT of holds that may change, where a transaction does not keep other transactions out."""

    def lock(self, account: str) -> float:
        raise NotImplementedError

    def now(self) -> float:
        raise NotImplementedError

    def clock(self) -> float:
        raise NotImplementedError

    def set_time(self) -> None:
        now = self.clock()
        values = {"now": now, "day": window_start("day", now), "month": window_start("month", now)}
        for statement in SET_TIME:
            self.run(statement, {name: values[name] for name in values if f":{name}" in statement})

    def run(self, sql: str, values: Values | list[Values] | None = None) -> list[Any]:
        """The rows of one statement with `:names` for its values; a list of values runs it for each."""
        raise NotImplementedError

    def accounts(self, ids: Sequence[str] | None = None) -> list[AccountRow]:
        found = f"SELECT {ACCOUNT} FROM elastic_accounts a"
        rows = self.run(found) if ids is None else self._among(f"{found} WHERE a.id", ids)
        return list(map(account_row, rows))

    def path(self, account: str) -> list[AccountRow]:
        return list(map(account_row, self.run(PATH, {"account": account})))

    def open_below(self, account: str) -> list[str]:
        return [name for (name,) in self.run(OPEN_BELOW, {"account": account})]

    def add_account(self, row: AccountRow) -> None:
        self.run(ADD_ACCOUNT, account_values(row))

    def save_accounts(self, rows: Sequence[AccountRow]) -> None:
        if rows:
            self.run(SAVE_ACCOUNT, [account_values(row) for row in rows])

    def hold(self, key: str) -> HoldRow | None:
        found = f"SELECT {HOLD} FROM elastic_holds WHERE key = :key{self.for_update}"
        rows = self.run(found, {"key": key})
        return hold_row(rows[0]) if rows else None

    def holds(self, account: str | None) -> list[HoldRow]:
        where = "" if account is None else " WHERE account = :account"
        rows = self.run(f"SELECT {HOLD} FROM elastic_holds{where}", {"account": account})
        return list(map(hold_row, rows))

    def live_holds(self, accounts: Sequence[str]) -> list[HoldRow]:
        live = f"SELECT {HOLD} FROM elastic_holds WHERE state = 'live' AND account"
        return list(map(hold_row, self._among(live, accounts, end=self.for_update)))

    def lapsed(self, now: float, most: int) -> list[HoldRow]:
        over = f"SELECT {HOLD} FROM elastic_holds WHERE state = 'live' AND until <= :now"
        first = f"{over} ORDER BY until LIMIT :most{self.for_update}"
        return list(map(hold_row, self.run(first, {"now": now, "most": most})))

    def add_hold(self, row: HoldRow) -> None:
        self.run(ADD_HOLD, hold_values(row))

    def save_hold(self, row: HoldRow) -> None:
        self.run(SAVE_HOLD, hold_values(row))

    def renew(self, keys: Sequence[str], now: float, until: float) -> set[str]:
        move = "UPDATE elastic_holds SET until = :until WHERE state = 'live' AND until > :now AND key"
        moved = self._among(move, keys, {"now": now, "until": until}, end=" RETURNING key")
        return {key for (key,) in moved}

    def drop_holds(self, before: float, most: int) -> int:
        old = "SELECT key FROM elastic_holds WHERE ended <= :before ORDER BY ended LIMIT :most"
        drop = f"DELETE FROM elastic_holds WHERE key IN ({old}{self.for_update}) RETURNING key"
        return len(self.run(drop, {"before": before, "most": most}))

    def finished(self, before: float, most: int) -> list[AccountRow]:
        return list(map(account_row, self.run(FINISHED, {"before": before, "most": most})))

    def drop_accounts(self, names: Sequence[str]) -> None:
        self._among("DELETE FROM elastic_accounts WHERE id", names)

    def _among(
        self, sql: str, names: Sequence[str], more: Values | None = None, end: str = ""
    ) -> list[Sequence[Any]]:
        """The rows of `sql IN (names) end`, at most `MANY` names at a time."""
        found: list[Sequence[Any]] = []
        for first in range(0, len(names), MANY):
            some = {f"n{i}": name for i, name in enumerate(names[first : first + MANY])}
            listed = ", ".join(f":{n}" for n in some)
            found += self.run(f"{sql} IN ({listed}){end}", {**some, **(more or {})})
        return found


def mark_of(row: Sequence[Any]) -> tuple[Mark, str]:
    """From what `MARK` selects: the ledger's time, and its own number."""
    latest, boot, ticks, ahead, generation = row
    return Mark(latest, boot, ticks, ahead), generation


def migrate(connection: Any, where: str, *, postgres: bool = False) -> None:
    """Bring a database to this library's version, in a transaction that keeps every other migration out.

    Args:
        connection: the driver's.
        where: the database, for messages.

    Raises:
        StoreVersionError: the database is newer, or older than the first migration.
    """
    there, table = 0, "SELECT 1 FROM sqlite_master WHERE name = 'elastic_ledger'"
    if postgres:
        table = "SELECT 1 WHERE to_regclass('elastic_ledger') IS NOT NULL"
    if connection.execute(table).fetchone():
        there = int(connection.execute("SELECT version FROM elastic_ledger").fetchone()[0])
    first, last = min(MIGRATIONS), max(MIGRATIONS)
    if there > last:
        raise StoreVersionError(
            f"{where} has schema version {there} and this elastic-agent knows {last}: upgrade it"
        )
    if 0 < there < first:
        raise StoreVersionError(
            f"{where} has schema version {there}, from before the first release: start a new ledger"
        )
    for version, migration in MIGRATIONS.items():
        if version > there:
            for statement in (*migration.statements, *(migration.postgres if postgres else ())):
                connection.execute(statement)
            connection.execute(f"UPDATE elastic_ledger SET version = {version}")
    if not there:
        connection.execute(f"UPDATE elastic_ledger SET generation = '{uuid4().hex}'")
