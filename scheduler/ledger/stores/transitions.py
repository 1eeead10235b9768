"""What each step of the durable ledger does, written once, without IO: for the store in memory and for SQL.

A step reads and writes rows on a `Repository` (dictionaries, or tables in a transaction) and decides before
it writes: one that raises has changed nothing but what had come to pass anyway, such as the end of a lease.
PostgreSQL runs `hold`, `dispatch`, `settle`, `refund` and `expire` as functions of its own (migrations.py),
which say the same; the stores' tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from elastic_agent.errors import StoreError, TaskClosedError, UnknownAccountError, UnknownHoldError

from ..accounts import HoldState
from ..amounts import NOTHING, Amount, Shortage
from .protocol import Level, Spec, StoredHold, Window


@dataclass(slots=True, eq=False)
class AccountRow:
    """An account as it is kept. Times are seconds of the store's clock.

    Attributes:
        root: the top of its tree.
        ends: when it takes no more holds.
        starts: when the window that `spent` is about began; 0 without windows.
        spent: what it and those below it were charged, in this window.
        past: the same in the windows before.
        own: what its own holds were charged, ever, and accounts below it that are forgotten.
        closed_at: when it was closed.
    """

    spec: Spec
    parent: str | None
    root: str
    ends: float | None
    starts: float = 0.0
    spent: Amount = NOTHING
    held: Amount = NOTHING
    own: Amount = NOTHING
    past: Amount = NOTHING
    closed: bool = False
    closed_at: float | None = None


@dataclass(slots=True, eq=False)
class HoldRow:
    """A hold as it is kept. `until`: the end of its lease; `ended`: when it was written down as over."""

    key: str
    account: str
    amount: Amount
    until: float
    dispatched: bool
    state: HoldState = HoldState.LIVE
    charged: Amount = NOTHING
    ended: float | None = None


class Repository(Protocol):
    """Where the rows are, for the length of one step.

    A row may be the stored one itself, so a step changes it only when it can't fail any more (a window that
    is rolled on is true either way), and then saves it.
    """

    def lock(self, account: str) -> float:
        """Keep every other step away from this account's tree until this one is over. Returns the time."""
        ...

    def now(self) -> float:
        """The time, for a step that locks nothing."""
        ...

    def set_time(self) -> None:
        """The clock is right, and the ledger's time wrong: what lies ahead comes back."""
        ...

    def accounts(self, ids: Sequence[str] | None = None) -> list[AccountRow]:
        """Those of these names that there are; None: every one."""
        ...

    def path(self, account: str) -> list[AccountRow]:
        """The account and those above it, from the account up; empty if nobody opened it."""
        ...

    def open_below(self, account: str) -> list[str]:
        """The account and those below it that are not closed, by name."""
        ...

    def add_account(self, row: AccountRow) -> None: ...

    def save_accounts(self, rows: Sequence[AccountRow]) -> None: ...

    def hold(self, key: str) -> HoldRow | None: ...

    def holds(self, account: str | None) -> list[HoldRow]:
        """An account's own, or every one."""
        ...

    def live_holds(self, accounts: Sequence[str]) -> list[HoldRow]: ...

    def lapsed(self, now: float, most: int) -> list[HoldRow]:
        """Up to `most` live holds whose lease is over, the longest over first."""
        ...

    def add_hold(self, row: HoldRow) -> None: ...

    def save_hold(self, row: HoldRow) -> None: ...

    def renew(self, keys: Sequence[str], now: float, until: float) -> set[str]:
        """Move the lease of those that live. Returns them."""
        ...

    def drop_holds(self, before: float, most: int) -> int:
        """Drop up to `most` holds that ended by then. Returns how many."""
        ...

    def finished(self, before: float, most: int) -> list[AccountRow]:
        """Up to `most` accounts closed by then that have no hold and nothing below them any more."""
        ...

    def drop_accounts(self, names: Sequence[str]) -> None: ...


def no_account(account: str) -> StoreError:
    return UnknownAccountError(f"nobody opened an account {account!r} in this store: open its path first")


def no_hold(key: str) -> StoreError:
    return UnknownHoldError(
        f"this store knows no hold {key!r}: it was never taken, or ended so long ago that it is gone"
    )


def other_hold(key: str) -> StoreError:
    return StoreError(
        f"key {key!r} stands for a hold of another account or amount: give each hold its own key"
    )


def not_instead(key: str) -> StoreError:
    return StoreError(f"hold {key!r} can't be replaced: it was dispatched, or belongs to another account")


def closed(account: str) -> TaskClosedError:
    return TaskClosedError(f"{account} has ended: it takes no more calls")


def window_start(window: Window, now: float) -> float:
    """When the UTC day or month of a moment began, in epoch seconds."""
    start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (start.replace(day=1) if window == "month" else start).timestamp()


def roll(row: AccountRow, now: float) -> AccountRow:
    """Start a new window if one has begun since."""
    if row.spec.window is not None:
        starts = window_start(row.spec.window, now)
        if starts > row.starts:
            row.starts, row.past, row.spent = starts, row.past + row.spent, NOTHING
    return row


def lacks(row: AccountRow, amount: Amount, freed: Amount, seconds: float, now: float) -> Shortage | None:
    """The first unit in which an account has no room; `freed` comes back to it in the same step."""
    for unit, cap in (("tokens", row.spec.tokens), ("nano", row.spec.nano)):
        needed, back = getattr(amount, unit), getattr(freed, unit)
        if cap is not None and needed > back:
            available = cap - getattr(row.spent, unit) - getattr(row.held, unit) + back
            if needed > available:
                return Shortage(row.spec.id, unit, needed, available)
    if row.ends is not None and seconds > row.ends - now:
        return Shortage(row.spec.id, "seconds", seconds, row.ends - now)
    return None


def shown(row: HoldRow, now: float) -> StoredHold:
    live = row.state is HoldState.LIVE
    left = max(0.0, row.until - now) if live else 0.0
    return StoredHold(row.key, row.account, row.amount, row.state, row.charged, row.dispatched, left)


class Transitions:
    """The steps of `Store`, one method each, on a repository. Arguments were checked by the caller."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def open(self, path: Sequence[Spec]) -> None:
        now = self.repository.lock(path[0].id)
        there = {row.spec.id: row for row in self.repository.accounts([spec.id for spec in path])}
        parent: str | None = None
        for spec in path:
            row = there.get(spec.id)
            if row is not None:
                if row.closed:
                    raise closed(spec.id)
                _same(row, spec, parent)
            parent = spec.id
        parent = None
        for spec in path:
            if spec.id not in there:
                ends = None if spec.seconds is None else now + spec.seconds
                starts = 0.0 if spec.window is None else window_start(spec.window, now)
                self.repository.add_account(AccountRow(spec, parent, path[0].id, ends, starts))
            parent = spec.id

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
                raise other_hold(key)
            if self._lives(row, now) and dispatched and not row.dispatched:
                row.dispatched = True
                self.repository.save_hold(row)
            return shown(row, now)
        old = None if instead_of is None else self._known(instead_of)
        if old is not None and (old.account != account or old.dispatched):
            raise not_instead(old.key)
        freed = old.amount if old is not None and self._lives(old, now) else NOTHING
        path = self._path(account)
        for level in path:
            if level.closed:
                raise closed(level.spec.id)
        for level in path:
            lack = lacks(roll(level, now), amount, freed, seconds, now)
            if lack is not None:
                return lack
        if old is not None and old.state is HoldState.LIVE:
            old.state, old.ended = HoldState.REFUNDED, now
            self.repository.save_hold(old)
        for level in path:
            level.held += amount - freed
        self.repository.save_accounts(path)
        row = HoldRow(key, account, amount, now + lease, dispatched)
        self.repository.add_hold(row)
        return shown(row, now)

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

    def renew(self, keys: Sequence[str], lease: float) -> set[str]:
        now = self.repository.now()
        return set(keys) - self.repository.renew(keys, now, now + lease)

    def expire(self, most: int) -> list[StoredHold]:
        now = self.repository.now()
        over = self.repository.lapsed(now, most)
        for row in over:
            self._lives(row, now)
        return [shown(row, now) for row in over]

    def forget(self, most: int, retention: float) -> bool:
        """Drop some of what is over for longer than that: holds first, then accounts of one tree.

        Returns:
            there may be more.
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
        for row in self.repository.live_holds(names):
            self._lapse(row, now)
        rows = self.repository.accounts(names)
        for level in rows:
            level.closed, level.closed_at = True, now
        self.repository.save_accounts(rows)

    def books(self, account: str) -> list[Level]:
        now = self.repository.now()
        found = []
        for row in self._path(account):
            roll(row, now)
            left = None if row.ends is None else max(0.0, row.ends - now)
            found.append(Level(row.spec, row.spent, row.held, left, row.closed, row.past))
        return found

    def holds(self, account: str | None) -> list[StoredHold]:
        now = self.repository.now()
        if account is not None:
            self._path(account)
        return [shown(row, now) for row in self.repository.holds(account)]

    def set_time(self) -> None:
        self.repository.set_time()

    def live(self, account: str) -> list[StoredHold]:
        now = self.repository.now()
        self._path(account)
        rows = self.repository.live_holds(self.repository.open_below(account))
        return [shown(row, now) for row in rows if self._lives(row, now)]

    def check(self) -> None:
        """See `Store.check`. What a child spent, its parent spent, over all windows."""
        accounts = {row.spec.id: row for row in self.repository.accounts()}
        held, kept = dict.fromkeys(accounts, NOTHING), dict.fromkeys(accounts, NOTHING)
        spent = {name: row.own for name, row in accounts.items()}
        for hold in self.repository.holds(None):
            assert hold.account in accounts, f"hold {hold.key}: there is no account {hold.account}"
            if hold.state is HoldState.LIVE:
                held[hold.account] += hold.amount
                assert not accounts[hold.account].closed, (
                    f"{hold.account} is closed and hold {hold.key} lives"
                )
            kept[hold.account] += hold.charged
        for name, row in accounts.items():
            if row.parent is not None:
                assert row.parent in accounts, f"{name}: there is no account {row.parent} above it"
                held[row.parent] += row.held
                spent[row.parent] += row.past + row.spent
        for name, row in accounts.items():
            charged, total = kept[name], row.past + row.spent
            assert row.held == held[name], f"{name}: holds add up to {held[name]}, the books say {row.held}"
            assert total == spent[name], f"{name}: charges add up to {spent[name]}, the books say {total}"
            assert row.own.max(charged) == row.own, (
                f"{name}: its holds cost {charged}, the books say {row.own}"
            )

    def _path(self, account: str) -> list[AccountRow]:
        path = self.repository.path(account)
        if not path:
            raise no_account(account)
        return path

    def _known(self, key: str) -> HoldRow:
        row = self.repository.hold(key)
        if row is None:
            raise no_hold(key)
        return row

    def _lives(self, row: HoldRow, now: float) -> bool:
        """Whether it does; one whose lease has run out is ended first."""
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
        return shown(row, now)

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


def _same(row: AccountRow, spec: Spec, parent: str | None) -> None:
    if row.parent != parent:
        raise StoreError(f"account {spec.id!r} exists under {row.parent!r}, not under {parent!r}")
    if row.spec != spec:
        raise StoreError(
            f"account {spec.id!r} exists as {row.spec}, not as {spec}; set_caps changes its caps"
        )
