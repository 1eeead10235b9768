"""The calls of one endpoint that can have their turn, in the order in which they get it.

Calls that would be late otherwise go first, by the moment at which they have to start. The others go in turns
by key, the least served first (start-time fair queueing: a key that was idle has saved nothing up); within a
key by priority, then by that moment. To take one out costs the logarithm of the calls that wait: each key has
a heap, and the first of each key stands in a heap of keys, among those that are behind or among those that
were served more than the others.

The moments depend on the endpoint's speed. Where many wait they are worked out again only when as much as a
sixteenth of them has changed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from ..allocation.request import Request

FEW = 64
"""So many are looked at one by one at each turn."""
PART = 16
"""With more than that, after so great a part of them has changed."""

Place = tuple[int, float, int, Request]
"""(priority, moment, order of arrival, call)"""


class CallOrder:
    """See the module."""

    def __init__(self) -> None:
        self.calls: dict[Request, float] = {}  # with the moment at which each has to start
        self._by_key: dict[str, list[Place]] = {}
        self._urgent: list[tuple[float, int, int, Request]] = []
        self._behind: list[Place] = []  # the first of each key that was served no more than the others
        self._before: list[tuple[float, Place]] = []  # and of those that were served so much
        self._served: dict[str, float] = {}  # by key: the virtual time up to which it was served
        self._drop: list[tuple[float, str]] = []
        self._virtual = 0.0
        self._turns = 0

    def __bool__(self) -> bool:
        return bool(self.calls)

    def add(self, request: Request, moment: float) -> None:
        """It can have its turn; it has to start at this moment."""
        if self.calls.get(request) == moment:
            return
        self.calls[request] = moment
        heapq.heappush(self._urgent, (moment, request.terms.priority, request.queue.order, request))
        key, place = request.task.key, (request.terms.priority, moment, request.queue.order, request)
        heapq.heappush(self._by_key.setdefault(key, []), place)
        if self._first(key) == place:
            self._list(key)

    def discard(self, request: Request) -> None:
        """It can't."""
        if self.calls.pop(request, None) is not None:
            self._list(request.task.key)

    def again(self, moment: Callable[[Request], float]) -> None:
        """A turn comes: work the moments out again, if it is time for that."""
        self._turns += 1
        if len(self.calls) <= FEW or PART * self._turns >= len(self.calls):
            self._turns = 0
            for request in list(self.calls):
                self.add(request, moment(request))

    def take(self, horizon: float) -> Request | None:
        """The one whose turn it is: among those that have to start by `horizon`, else in fair order."""
        while self._urgent:
            moment, _, _, request = self._urgent[0]
            if self.calls.get(request) == moment:
                if moment > horizon:
                    break
                return self._taken(request)
            heapq.heappop(self._urgent)
        self._catch_up()
        while self._behind:
            place = self._behind[0]
            if self._served.get(place[3].task.key, 0.0) <= self._virtual and self._is_first(place):
                return self._taken(place[3])
            heapq.heappop(self._behind)
        while self._before:
            served, place = self._before[0]
            if self._served.get(place[3].task.key) == served and self._is_first(place):
                return self._taken(place[3])
            heapq.heappop(self._before)
        return None

    def take_urgent(self, horizon: float, may: Callable[[Request], bool]) -> Request | None:
        """The first of those that have to start by `horizon` and may; `FEW` of them are asked about."""
        passed: list[tuple[float, int, int, Request]] = []
        found: Request | None = None
        while self._urgent and len(passed) < FEW:
            moment, _, _, request = self._urgent[0]
            if self.calls.get(request) == moment:
                if moment > horizon:
                    break
                if may(request):
                    found = request
                    break
                passed.append(self._urgent[0])
            heapq.heappop(self._urgent)
        for place in passed:
            heapq.heappush(self._urgent, place)
        return None if found is None else self._taken(found)

    def served(self, key: str, tokens: int) -> None:
        """A call of a key has started, which will use so many tokens."""
        self._virtual = max(self._virtual, self._served.get(key, 0.0))
        self._served[key] = self._virtual + max(1, tokens)
        heapq.heappush(self._drop, (self._served[key], key))
        self._catch_up()
        self._list(key)

    # Inside

    def _taken(self, request: Request) -> Request:
        self.discard(request)
        return request

    def _catch_up(self) -> None:
        """Keys that the others have caught up with are behind again; idle ones save nothing up."""
        while self._drop and self._drop[0][0] <= self._virtual:
            served, key = heapq.heappop(self._drop)
            if self._served.get(key) == served:
                del self._served[key]
                self._list(key)

    def _is_first(self, place: Place) -> bool:
        return self._first(place[3].task.key) == place

    def _first(self, key: str) -> Place | None:
        """The first call of a key that is still ready."""
        places = self._by_key.get(key)
        while places:
            if self.calls.get(places[0][3]) == places[0][1]:
                return places[0]
            heapq.heappop(places)
        self._by_key.pop(key, None)
        return None

    def _list(self, key: str) -> None:
        """Have the first of a key stand among the others."""
        place = self._first(key)
        if place is None:
            return
        served = self._served.get(key, 0.0)
        if served <= self._virtual:
            heapq.heappush(self._behind, place)
        else:
            heapq.heappush(self._before, (served, place))
