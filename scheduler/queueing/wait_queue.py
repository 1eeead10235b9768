"""The calls that wait in one tree of tasks: a queue for each task, and the first call of each at hand.

Only the first call of a task is decided on; while it waits, the later calls of its task are not looked at. A
first call that has no room on an account is kept with that account, and looked at again when something
happens there (`wake`); later calls that need the account wait behind it. So an event in one task costs the
logarithm of the number of waiting calls.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from ..allocation.request import Request
from ..ledger.accounts import Account

Entry = tuple[int, int, Request]
"""(rank, order of arrival, call)"""


class Queue:
    """See the module. Calls with an outcome (withdrawn, dismissed) are passed over."""

    def __init__(self) -> None:
        self._tasks: dict[str, list[Entry]] = {}  # a heap for each task's account
        self._listed: dict[str, Entry] = {}  # the first of each task; any other entry is void
        self._fresh: list[Entry] = []  # a heap: first calls to look at
        self._kept: dict[
            str, list[Entry]
        ] = {}  # heaps of first calls, by the account that has no room for them
        self._where: dict[
            str, tuple[str, ...]
        ] = {}  # by task: the accounts with which its first call is kept
        self._at_hand: set[str] = set()  # tasks whose first call is in `_fresh`
        self._woken: set[str] = set()  # accounts whose kept calls are to be looked at
        self._from: str | None = None  # the account with which the call of the latest `pop` was kept

    def push(self, rank: int, request: Request) -> bool:
        """Add a call. Returns whether it is the first of its task."""
        key = request.task.account.id
        entries = self._tasks.setdefault(key, [])
        heapq.heappush(entries, (rank, request.queue.order, request))
        first = entries[0][2] is request
        if first:
            self._list(key)
        return first

    def wake(self, path: Iterable[Account]) -> None:
        """Something has happened on these accounts: look at the calls that are kept there, one by one."""
        if self._kept:
            for account in path:
                if account.id in self._kept:
                    self._woken.add(account.id)

    def look(self, task: str) -> None:
        """Something has happened in this task: look at its first call."""
        if task in self._listed and task not in self._at_hand:
            self._where.pop(task, None)
            self._at_hand.add(task)
            heapq.heappush(self._fresh, self._anew(task))

    def pop(self) -> Request | None:
        """The next call to look at; None: there is none."""
        if not self._fresh and not self._woken:
            return None
        best, where = self._top(self._fresh, None), None
        for account in list(self._woken) if self._woken else ():
            entry = self._top(self._kept.get(account), account)
            if entry is None:
                self._woken.discard(account)
                self._kept.pop(account, None)
            elif best is None or entry < best:
                best, where = entry, account
        if best is None:
            return None
        heapq.heappop(self._fresh if where is None else self._kept[where])
        task = best[2].task.account.id
        self._where.pop(task, None)
        self._at_hand.discard(task)
        self._from = where
        if where is not None:
            self._woken.discard(where)  # calls behind this one wait for its outcome
        return best[2]

    def first(self, request: Request) -> bool:
        """Whether a call is the first of its task."""
        entry = self._listed.get(request.task.account.id)
        return entry is not None and entry[2] is request

    def ahead(self, request: Request) -> str | None:
        """The first account of a call's path with which an earlier call is kept; None: there is none."""
        if self._kept:
            mine = self._listed[request.task.account.id]
            for account in request.task.account.path:
                entry = self._top(self._kept.get(account.id), account.id)
                if entry is not None and entry[:2] < mine[:2]:
                    return account.id
        return None

    def keep(self, request: Request, *accounts: str) -> None:
        """Keep a call that has no room on the first of these accounts, until something happens there.

        Later calls wait behind it on all of these accounts. If it was kept with another account before, the
        next call there is looked at.
        """
        before, self._from = self._from, None
        if before is not None and before not in accounts and before in self._kept:
            self._woken.add(before)
        task = request.task.account.id
        entry = self._listed[task] = self._anew(task)
        self._where[task] = accounts
        for account in accounts:
            heapq.heappush(self._kept.setdefault(account, []), entry)
            self._woken.discard(account)

    def leave(self, request: Request) -> None:
        """A call has its outcome: its task's next call is at hand."""
        task = request.task.account.id
        entry = self._listed.get(task)
        if entry is not None and entry[2] is request:
            self._list(task)

    def waiting(self, account: str) -> Iterator[Request]:
        """The waiting calls of one task."""
        return (request for _, _, request in self._tasks.get(account, ()) if request.outcome is None)

    def _top(self, entries: list[Entry] | None, where: str | None) -> Entry | None:
        """The first valid entry of a heap; void ones are thrown away."""
        while entries:
            entry = entries[0]
            task = entry[2].task.account.id
            kept = self._where.get(task)
            if self._listed.get(task) is entry and (where is None if kept is None else where in kept):
                return entry
            heapq.heappop(entries)
        return None

    def _anew(self, task: str) -> Entry:
        """Renew the first entry of a task, which makes its entries in all heaps void."""
        rank, order, request = self._listed[task]
        entry = self._listed[task] = (rank, order, request)
        return entry

    def _list(self, task: str) -> None:
        """Put a task's first waiting call at hand."""
        entries = self._tasks[task]
        while entries and entries[0][2].outcome is not None:
            heapq.heappop(entries)
        self._where.pop(task, None)
        if entries:
            self._listed[task] = entries[0]
            self._at_hand.add(task)
            heapq.heappush(self._fresh, self._anew(task))
        else:
            self._at_hand.discard(task)
            del self._tasks[task], self._listed[task]

    def __bool__(self) -> bool:
        return bool(self._tasks)
