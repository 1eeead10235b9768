"""What each step of a ledger does, without IO: for the stores in memory, SQLite and PostgreSQL.

A step reads and writes rows of a `Repository` (dictionaries, or tables in a transaction). A step that raises
has changed nothing, except that leases which ran out have ended. PostgreSQL runs `hold`, `dispatch`,
`settle`, `refund` and `expire` as functions of its own (migrations.py), Redis all steps (redis.lua), for one
round trip each. The contract and the model tests hold all of them to the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from elastic_agent.errors import StoreError

from ..accounts import HoldState
from ..amounts import NOTHING, Amount, Shortage
from .protocol import Spec, StoredAccount, StoredHold, Window
from .refusals import (
    account_closed,
    key_in_use,
    not_replaceable,
    other_parent,
    unknown_account,
    unknown_hold,
)
from .repository import AccountRow, HoldRow, Repository


def window_start(window: Window, now: float) -> float:
    """When the UTC day or month of a moment began, in epoch seconds."""
    start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (start.replace(day=1) if window == "month" else start).timestamp()


def window_end(window: Window, now: float) -> float:
    """When the UTC day or month of a moment ends, in epoch seconds."""
    start = datetime.fromtimestamp(window_start(window, now), UTC)
    return window_start(window, (start + timedelta(days=32 if window == "month" else 1)).timestamp())


def roll(row: AccountRow, now: float) -> AccountRow:
    """Start a new window if one has begun since the last step."""
    if row.spec.window is not None:
        starts = window_start(row.spec.window, now)
        if starts > row.starts:
            row.starts, row.past, row.spent = starts, row.past + row.spent, NOTHING
    return row


def shortage_of(
    row: AccountRow, amount: Amount, freed: Amount, seconds: float, now: float
) -> Shortage | None:
    """The first unit in which an account has no room; the same step gives `freed` back to the account."""
    for unit, cap in (("tokens", row.spec.tokens), ("nano", row.spec.nano)):
        needed, back = getattr(amount, unit), getattr(freed, unit)
        if cap is not None and needed > back:
            available = cap - getattr(row.spent, unit) - getattr(row.held, unit) + back
            if needed > available:
                return Shortage(row.spec.id, unit, needed, available)
    if row.ends is not None and seconds > row.ends - now:
        return Shortage(row.spec.id, "seconds", seconds, row.ends - now)
    return None


def stored_hold(row: HoldRow, now: float) -> StoredHold:
    left = max(0.0, row.until - now) if row.state is HoldState.LIVE else 0.0
    return StoredHold(row.key, row.account, row.amount, row.state, row.charged, row.dispatched, left)


class Transitions:
    """The steps of `Store`, one method each, on a repository. The caller has checked the arguments."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def open(self, path: Sequence[Spec]) -> None:
        now = self.repository.lock(path[0].id)
        there = {row.spec.id: row for row in self.repository.accounts([spec.id for spec in path])}
        parents = [None, *(spec.id for spec in path[:-1])]
        for spec, parent in zip(path, parents, strict=True):
            if (row := there.get(spec.id)) is not None:
                _check_same(row, spec, parent)
        for spec, parent in zip(path, parents, strict=True):
            if spec.id not in there:
                ends = None if spec.seconds is None else now + spec.seconds
                starts = 0.0 if spec.window is None else window_start(spec.window, now)
                self.repository.add_account(AccountRow(spec, parent, path[0].id, ends, starts))

    def set_caps(self, account: str, tokens: int | None, nano: int | None) -> None:
        self.repository.lock(account)
        row = self._path(account)[0]
        row.spec = replace(row.spec, tokens=tokens, nano=nano)
        self.repository.save_accounts([row])

    def hold(
        self,
        key: str,
        account: str,
        amount: Amount,
        lease: float,
        seconds: float,
        dispatched: bool,
        instead_of: str | None,
    ) -> StoredHold | Shortage:
        now = self.repository.lock(account)
        row = self.repository.hold(key)
        if row is not None:
            if (row.account, row.amount) != (account, amount):
                raise key_in_use(key)
            if self._lives(row, now) and dispatched and not row.dispatched:
                row.dispatched = True
                self.repository.save_hold(row)
            return stored_hold(row, now)
        old = None if instead_of is None else self._known(instead_of)
        if old is not None and (old.account != account or old.dispatched):
            raise not_replaceable(old.key)
        freed = old.amount if old is not None and self._lives(old, now) else NOTHING
        path = self._path(account)
        for level in path:
            if level.closed:
                raise account_closed(level.spec.id)
        for level in path:
            short = shortage_of(roll(level, now), amount, freed, seconds, now)
            if short is not None:
                return short
        if old is not None and old.state is HoldState.LIVE:
            old.state, old.ended = HoldState.REFUNDED, now
            self.repository.save_hold(old)
        for level in path:
            level.held += amount - freed
        self.repository.save_accounts(path)
        row = HoldRow(key, account, amount, now + lease, dispatched)
        self.repository.add_hold(row)
        return stored_hold(row, now)

    def dispatch(self, key: str) -> bool:
        row = self._known(key)
        if row.state is not HoldState.LIVE or row.until <= self.repository.now():
            return False
        if not row.dispatched:
            row.dispatched = True
            self.repository.save_hold(row)
        return True

    def settle(self, key: str, actual: Amount) -> StoredHold:
        return self._end_known(key, HoldState.SETTLED, actual)

    def refund(self, key: str) -> StoredHold:
        return self._end_known(key, HoldState.REFUNDED, NOTHING)

    def renew(self, lease: float, keys: Sequence[str]) -> set[str]:
        now = self.repository.now()
        return set(keys) - self.repository.renew(keys, now, now + lease)

    def expire(self, most: int) -> list[StoredHold]:
        now = self.repository.now()
        over = self.repository.lapsed(now, most)
        for row in over:
            self._lapse(row, now)
        return [stored_hold(row, now) for row in over]

    def forget(self, most: int, retention: float) -> bool:
        """Drop what ended longer ago than the retention: holds first, then accounts of one tree.

        Returns:
            whether there may be more.
        """
        before = self.repository.now() - retention
        if self.repository.drop_holds(before, most) == most:
            return True
        rows = self.repository.finished(before, most)
        if rows:
            root = rows[0].root
            self.repository.lock(root)
            rows = [row for row in self.repository.finished(before, most) if row.root == root]
        charged: dict[str, Amount] = {}
        for row in rows:
            if row.parent is not None:
                charged[row.parent] = charged.get(row.parent, NOTHING) + row.past + row.spent
        parents = self.repository.accounts(list(charged))
        for parent in parents:
            parent.own += charged[parent.spec.id]
        self.repository.save_accounts(parents)
        self.repository.drop_accounts([row.spec.id for row in rows])
        return bool(rows)

    def close(self, account: str) -> None:
        now = self.repository.lock(account)
        if self._path(account)[0].closed:
            return
        names = self.repository.open_below(account)
        for hold in self.repository.live_holds(names):
            self._lapse(hold, now)
        rows = self.repository.accounts(names)
        for row in rows:
            row.closed, row.closed_at = True, now
        self.repository.save_accounts(rows)

    def read_accounts(self, account: str) -> list[StoredAccount]:
        now = self.repository.now()
        found = []
        for row in self._path(account):
            roll(row, now)
            left = None if row.ends is None else max(0.0, row.ends - now)
            found.append(StoredAccount(row.spec, row.spent, row.held, left, row.closed, row.past))
        return found

    def holds(self, account: str | None) -> list[StoredHold]:
        now = self.repository.now()
        if account is not None:
            self._path(account)
        return [stored_hold(row, now) for row in self.repository.holds(account)]

    def set_time(self) -> None:
        self.repository.set_time()

    def live(self, account: str) -> list[StoredHold]:
        now = self.repository.now()
        self._path(account)
        rows = self.repository.live_holds(self.repository.open_below(account))
        return [stored_hold(row, now) for row in rows if self._lives(row, now)]

    def check(self) -> None:
        check_sums(self.repository.accounts(), self.repository.holds(None))

    def _path(self, account: str) -> list[AccountRow]:
        path = self.repository.path(account)
        if not path:
            raise unknown_account(account)
        return path

    def _known(self, key: str) -> HoldRow:
        row = self.repository.hold(key)
        if row is None:
            raise unknown_hold(key)
        return row

    def _lives(self, row: HoldRow, now: float) -> bool:
        """Whether the hold is live; a hold whose lease has run out is ended first."""
        if row.state is HoldState.LIVE and row.until <= now:
            self._lapse(row, now)
        return row.state is HoldState.LIVE

    def _lapse(self, row: HoldRow, now: float) -> None:
        if row.dispatched:
            self._end(row, HoldState.EXPIRED, row.amount, now)
        else:
            self._end(row, HoldState.REFUNDED, NOTHING, now)

    def _end_known(self, key: str, state: HoldState, charge: Amount) -> StoredHold:
        row, now = self._known(key), self.repository.now()
        if self._lives(row, now):
            self._end(row, state, charge, now)
        return stored_hold(row, now)

    def _end(self, row: HoldRow, state: HoldState, charge: Amount, now: float) -> None:
        path = self._path(row.account)
        for level in path:
            roll(level, now)
            level.held -= row.amount
            level.spent += charge
        path[0].own += charge
        self.repository.save_accounts(path)
        row.state, row.charged, row.ended = state, charge, now
        self.repository.save_hold(row)


def _check_same(row: AccountRow, spec: Spec, parent: str | None) -> None:
    if row.closed:
        raise account_closed(spec.id)
    if row.parent != parent:
        raise other_parent(spec.id, row.parent, parent)
    if row.spec != spec:
        raise StoreError(
            f"account {spec.id!r} exists as {row.spec}, not as {spec}; set_caps changes its caps"
        )


def check_sums(rows: Iterable[AccountRow], holds: Iterable[HoldRow | StoredHold]) -> None:
    """Hold the conservation law against every account: see `Store.check`. Charges count over all windows.

    Raises:
        AssertionError: which account breaks the law, and how.
    """
    accounts = {row.spec.id: row for row in rows}
    held, charged = dict.fromkeys(accounts, NOTHING), dict.fromkeys(accounts, NOTHING)
    spent = {name: row.own for name, row in accounts.items()}
    for hold in holds:
        assert hold.account in accounts, f"hold {hold.key}: there is no account {hold.account}"
        if hold.state is HoldState.LIVE:
            held[hold.account] += hold.amount
            assert not accounts[hold.account].closed, f"{hold.account} is closed and hold {hold.key} lives"
        charged[hold.account] += hold.charged
    for name, row in accounts.items():
        if row.parent is not None:
            assert row.parent in accounts, f"{name}: there is no account {row.parent} above it"
            held[row.parent] += row.held
            spent[row.parent] += row.past + row.spent
    for name, row in accounts.items():
        total = row.past + row.spent
        assert row.held == held[name], f"{name}: holds add up to {held[name]}, the account says {row.held}"
        assert total == spent[name], f"{name}: charges add up to {spent[name]}, the account says {total}"
        assert charged[name].fits_in(row.own), (
            f"{name}: its holds cost {charged[name]}, the account says {row.own}"
        )
