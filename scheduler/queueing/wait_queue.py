"""The calls that wait in one tree of tasks: a queue for each task, and the first of each at hand.

Only the first call of a task is decided on; where it waits, those of its task behind it are not looked at. A
first call that waits for tokens of an account is kept with that account, and looked at again when something
happens there (`wake`); later calls that need this account wait behind it. So what happens in one task costs
the logarithm of the calls that wait, not their number.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from ..allocation.request import Request
from ..ledger.accounts import Account

Entry = tuple[int, int, Request]
"""(rank, order of arrival, call)"""


class Queue:
    """See the module. Calls that were decided elsewhere (withdrawn, dismissed) are passed over."""

    def __init__(self) -> None:
        self._tasks: dict[str, list[Entry]] = {}  # a heap for each account
        self._listed: dict[str, Entry] = {}  # the first of each; an entry that is not in here is void
        self._fresh: list[Entry] = []  # a heap: to be looked at
        self._lacking: dict[str, list[Entry]] = {}  # by the account that they lack something on, heaps
        self._where: dict[
            str, tuple[str, ...]
        ] = {}  # by task: the accounts with which its first call is kept
        self._at_hand: set[str] = set()  # tasks whose first call is in it
        self._woken: set[str] = set()
        self._from: str | None = None  # with which account the latest that is out was kept

    def push(self, rank: int, request: Request) -> bool:
        """A call arrives. Returns whether it is the first of its task."""
        key = request.task.account.id
        entries = self._tasks.setdefault(key, [])
        heapq.heappush(entries, (rank, request.queue.order, request))
        first = entries[0][2] is request
        if first:
            self._list(key)
        return first

    def wake(self, path: Iterable[Account]) -> None:
        """Something has happened on these accounts: who lacks something there is looked at, one by one."""
        if self._lacking:
            for account in path:
                if account.id in self._lacking:
                    self._woken.add(account.id)

    def look(self, task: str) -> None:
        """Something has happened in this task: its first call is looked at."""
        if task in self._listed and task not in self._at_hand:
            self._where.pop(task, None)
            self._at_hand.add(task)
            heapq.heappush(self._fresh, self._anew(task))

    def pop(self) -> Request | None:
        """The first call that is to be looked at; None: no more."""
        if not self._fresh and not self._woken:
            return None
        best, where = self._top(self._fresh, None), None
        for account in list(self._woken) if self._woken else ():
            entry = self._top(self._lacking.get(account), account)
            if entry is None:
                self._woken.discard(account)
                self._lacking.pop(account, None)
            elif best is None or entry < best:
                best, where = entry, account
        if best is None:
            return None
        heapq.heappop(self._fresh if where is None else self._lacking[where])
        task = best[2].task.account.id
        self._where.pop(task, None)
        self._at_hand.discard(task)
        self._from = where
        if where is not None:
            self._woken.discard(where)  # those behind it wait for what becomes of it
        return best[2]

    def first(self, request: Request) -> bool:
        """Whether it is the first of its task."""
        entry = self._listed.get(request.task.account.id)
        return entry is not None and entry[2] is request

    def ahead(self, request: Request) -> str | None:
        """The first account of its path on which an earlier call lacks something; None: none."""
        if self._lacking:
            mine = self._listed[request.task.account.id]
            for account in request.task.account.path:
                entry = self._top(self._lacking.get(account.id), account.id)
                if entry is not None and entry[:2] < mine[:2]:
                    return account.id
        return None

    def keep(self, request: Request, *accounts: str) -> None:
        """It lacks something on the first of these accounts: keep it there until something happens.

        Later calls wait behind it on all of these. Where it was kept with another account before, the next
        one there is looked at.
        """
        before, self._from = self._from, None
        if before is not None and before not in accounts and before in self._lacking:
            self._woken.add(before)
        task = request.task.account.id
        entry = self._listed[task] = self._anew(task)
        self._where[task] = accounts
        for account in accounts:
            heapq.heappush(self._lacking.setdefault(account, []), entry)
            self._woken.discard(account)

    def leave(self, request: Request) -> None:
        """A call has its outcome: the next of its task is at hand."""
        task = request.task.account.id
        entry = self._listed.get(task)
        if entry is not None and entry[2] is request:
            self._list(task)

    def waiting(self, account: str) -> Iterator[Request]:
        """The calls of one task that wait."""
        return (request for _, _, request in self._tasks.get(account, ()) if request.outcome is None)

    def _top(self, entries: list[Entry] | None, where: str | None) -> Entry | None:
        """The first of a heap that still holds; void ones are thrown away."""
        while entries:
            entry = entries[0]
            task = entry[2].task.account.id
            kept = self._where.get(task)
            if self._listed.get(task) is entry and (where is None if kept is None else where in kept):
                return entry
            heapq.heappop(entries)
        return None

    def _anew(self, task: str) -> Entry:
        """The first entry of a task as a new one: those of it in any heap are void."""
        rank, order, request = self._listed[task]
        entry = self._listed[task] = (rank, order, request)
        return entry

    def _list(self, task: str) -> None:
        """Have the first call of a task that still waits at hand."""
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
