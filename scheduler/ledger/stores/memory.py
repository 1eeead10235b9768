"""The ledger in this process's memory: gone with the process."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from elastic_agent.errors import StoreError

from ..accounts import HoldState
from .base import RETENTION, BaseStore
from .ledger_time import LedgerTime, Mark
from .repository import AccountRow, HoldRow
from .transitions import Transitions, window_start

T = TypeVar("T")


class MemoryRepository:
    """Rows in dictionaries; a heap of lease ends, so that a sweep looks only at leases that are over."""

    def __init__(self, time: LedgerTime) -> None:
        self._time = time
        self._latest = 0.0
        self._accounts: dict[str, AccountRow] = {}
        self._below: dict[str, dict[str, None]] = {}
        self._holds: dict[str, HoldRow] = {}
        self._of: dict[str, dict[str, None]] = {}
        self._leases: list[tuple[float, str]] = []
        self._ended: deque[tuple[float, str]] = deque()
        self._closed: dict[str, None] = {}  # by time of closing

    def now(self) -> float:
        self._latest = self._time.now(Mark(self._latest))
        return self._latest

    def set_time(self) -> None:
        self._latest = now = self._time.clock()
        self._time.set()
        for account in self._accounts.values():
            if account.spec.window is not None:
                account.starts = min(account.starts, window_start(account.spec.window, now))
            if account.closed_at is not None:
                account.closed_at = min(account.closed_at, now)
        for hold in self._holds.values():
            if hold.state is HoldState.LIVE:
                hold.until = now
                heapq.heappush(self._leases, (now, hold.key))
            elif hold.ended is not None:
                hold.ended = min(hold.ended, now)
        self._ended = deque((min(ended, now), key) for ended, key in self._ended)

    def lock(self, account: str) -> float:
        return self.now()

    def accounts(self, ids: Sequence[str] | None = None) -> list[AccountRow]:
        wanted = self._accounts if ids is None else ids
        return [self._accounts[name] for name in wanted if name in self._accounts]

    def path(self, account: str) -> list[AccountRow]:
        found = []
        above = self._accounts.get(account)
        while above is not None:
            found.append(above)
            above = None if above.parent is None else self._accounts[above.parent]
        return found

    def open_below(self, account: str) -> list[str]:
        if self._accounts[account].closed:
            return []
        return [account, *(name for child in self._below[account] for name in self.open_below(child))]

    def add_account(self, row: AccountRow) -> None:
        self._accounts[row.spec.id] = row
        self._below[row.spec.id], self._of[row.spec.id] = {}, {}
        if row.parent is not None:
            self._below[row.parent][row.spec.id] = None

    def save_accounts(self, rows: Sequence[AccountRow]) -> None:
        # The rows are the stored objects themselves
        self._closed.update(dict.fromkeys(row.spec.id for row in rows if row.closed))

    def hold(self, key: str) -> HoldRow | None:
        return self._holds.get(key)

    def holds(self, account: str | None) -> list[HoldRow]:
        return [self._holds[key] for key in (self._holds if account is None else self._of[account])]

    def live_holds(self, accounts: Sequence[str]) -> list[HoldRow]:
        rows = [row for account in accounts for row in self.holds(account)]
        return [row for row in rows if row.state is HoldState.LIVE]

    def lapsed(self, now: float, most: int) -> list[HoldRow]:
        over: dict[str, HoldRow] = {}
        while self._leases and self._leases[0][0] <= now and len(over) < most:
            until, key = heapq.heappop(self._leases)
            row = self._holds.get(key)
            if row is not None and row.until == until and row.state is HoldState.LIVE:  # not renewed since
                over[key] = row
        return list(over.values())

    def add_hold(self, row: HoldRow) -> None:
        self._holds[row.key] = row
        self._of[row.account][row.key] = None
        heapq.heappush(self._leases, (row.until, row.key))

    def save_hold(self, row: HoldRow) -> None:
        if row.ended is not None:
            self._ended.append((row.ended, row.key))

    def renew(self, keys: Sequence[str], now: float, until: float) -> set[str]:
        rows = [row for key in keys if (row := self._holds.get(key)) is not None]
        live = {row.key: row for row in rows if row.state is HoldState.LIVE and row.until > now}
        for row in live.values():
            row.until = until
            heapq.heappush(self._leases, (until, row.key))
        return set(live)

    def drop_holds(self, before: float, most: int) -> int:
        for dropped in range(most):
            if not self._ended or self._ended[0][0] > before:
                return dropped
            key = self._ended.popleft()[1]
            del self._of[self._holds.pop(key).account][key]
        return most

    def finished(self, before: float, most: int) -> list[AccountRow]:
        found: list[AccountRow] = []
        for name in self._closed:
            row = self._accounts[name]
            if len(found) == most or row.closed_at is None or row.closed_at > before:
                break
            if not self._of[name] and not self._below[name]:
                found.append(row)
        return found

    def drop_accounts(self, names: Sequence[str]) -> None:
        for name in names:
            row = self._accounts.pop(name)
            del self._below[name], self._of[name], self._closed[name]
            if row.parent is not None:
                del self._below[row.parent][name]


class MemoryStore(BaseStore):
    """A ledger that no other process sees.

    Args:
        clock, elapsed: see `LedgerTime`.
        retention: seconds for which ended holds and closed accounts are kept.
    """

    name = "memory"

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] | None = None,
        retention: float = RETENTION,
    ) -> None:
        super().__init__(retention)
        self._steps = Transitions(MemoryRepository(LedgerTime(clock, elapsed)))
        self._lock = threading.Lock()  # several event loops may share it

    async def _run(self, step: Callable[..., T], *args: Any) -> T:
        with self._lock:
            return step(self._steps, *args)

    def _later(self, step: Callable[..., T], *args: Any) -> Future[T]:
        answer: Future[T] = Future()
        try:
            with self._lock:
                answer.set_result(step(self._steps, *args))
        except StoreError as error:
            answer.set_exception(error)
        return answer

    async def aclose(self) -> None:
        pass
