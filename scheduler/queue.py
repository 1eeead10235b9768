"""The calls that wait in one tree of tasks: a queue for each task, and the first of each at hand.

Calls come out in order of rank, then arrival, but only the first of a task: where that one waits, those of
its task behind it are not looked at. To take a call out costs the logarithm of the tasks that wait.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from elastic_agent.scheduler.request import Request

Entry = tuple[int, int, Request]
"""(rank, order of arrival, call)"""


class Queue:
    """See the module. Calls that were decided elsewhere (withdrawn, dismissed) are passed over."""

    def __init__(self) -> None:
        self._tasks: dict[str, list[Entry]] = {}  # a heap for each account
        self._heads: list[Entry] = []  # a heap; what `_listed` does not know was overtaken in its own task
        self._listed: dict[str, Entry] = {}
        self._out: list[Request] = []

    def push(self, rank: int, request: Request) -> bool:
        """A call arrives. Returns whether it is the first of its task."""
        key = request.book.account.id
        entries = self._tasks.setdefault(key, [])
        heapq.heappush(entries, (rank, request.order, request))
        first = entries[0][2] is request
        if first:
            self._list(key)
        return first

    def pop(self) -> Request | None:
        """The first of the calls that come first in their tasks, and are not out yet."""
        while self._heads:
            entry = heapq.heappop(self._heads)
            request = entry[2]
            key = request.book.account.id
            if self._listed.get(key) is entry:
                if request.outcome is None:
                    self._out.append(request)
                    return request
                self._list(key)
        return None

    def leave(self, request: Request) -> None:
        """A call that is out has its outcome: the next of its task is at hand."""
        self._list(request.book.account.id)

    def back(self) -> None:
        """All calls that are out and still wait come in again."""
        for request in self._out:
            if request.outcome is None:
                heapq.heappush(self._heads, self._listed[request.book.account.id])
        self._out.clear()

    def waiting(self, account: str) -> Iterator[Request]:
        """The calls of one task that wait."""
        return (request for _, _, request in self._tasks.get(account, ()) if request.outcome is None)

    def _list(self, key: str) -> None:
        """Have the first call of a task that still waits at hand."""
        entries = self._tasks[key]
        while entries and entries[0][2].outcome is not None:
            heapq.heappop(entries)
        if entries:
            rank, order, request = entries[0]
            self._listed[key] = entry = (rank, order, request)  # anew: an older one of the heap is void
            heapq.heappush(self._heads, entry)
        else:
            del self._tasks[key], self._listed[key]

    def __bool__(self) -> bool:
        return bool(self._tasks)
