"""The ready calls of one endpoint, in the order in which they get their turn.

Calls that would otherwise be late go first, by the moment at which they have to start. The others go in turns
by key, the least served key first (start-time fair queueing: an idle key saves nothing up); within a key by
priority, then by that moment. To take a call costs the logarithm of the number of calls: each key has a heap,
and the first call of each key stands in one of two heaps: of keys that were served no more than the others,
or of keys that were served more.

The moments depend on the endpoint's speed. Where many calls wait, the moments are worked out again only when
as much as a sixteenth of the calls has changed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from ..allocation.request import Request

FEW = 64
"""Up to so many calls are worked out again at each turn."""
PART = 16
"""More calls than that are worked out again after one in so many has changed."""

Place = tuple[int, float, int, Request]
"""(priority, moment, order of arrival, call)"""


class CallOrder:
    """See the module."""

    def __init__(self) -> None:
        self.calls: dict[Request, float] = {}  # with the moment at which each has to start
        self._by_key: dict[str, list[Place]] = {}
        self._urgent: list[tuple[float, int, int, Request]] = []
        self._due: list[Place] = []  # the first call of each key that was served no more than the others
        self._ahead: list[tuple[float, Place]] = []  # of each other key, with how much that was served
        self._served: dict[str, float] = {}  # by key: the virtual time up to which it was served
        self._catching_up: list[tuple[float, str]] = []  # a heap of `_served`, some of it outdated
        self._virtual = 0.0
        self._turns = 0

    def __bool__(self) -> bool:
        return bool(self.calls)

    def add(self, request: Request, moment: float) -> None:
        """A call is ready; it has to start at this moment."""
        if self.calls.get(request) == moment:
            return
        self.calls[request] = moment
        heapq.heappush(self._urgent, (moment, request.terms.priority, request.queue.order, request))
        key, place = request.task.key, (request.terms.priority, moment, request.queue.order, request)
        heapq.heappush(self._by_key.setdefault(key, []), place)
        if self._first(key) == place:
            self._list(key)

    def discard(self, request: Request) -> None:
        """A call is not ready any more."""
        if self.calls.pop(request, None) is not None:
            self._list(request.task.key)

    def again(self, moment: Callable[[Request], float]) -> None:
        """A turn comes: work the moments out again, if enough calls have changed."""
        self._turns += 1
        if len(self.calls) <= FEW or PART * self._turns >= len(self.calls):
            self._turns = 0
            for request in list(self.calls):
                self.add(request, moment(request))

    def take(self, horizon: float) -> Request | None:
        """Take the next call: the first of those that have to start by `horizon`, else in fair order."""
        while self._urgent:
            moment, _, _, request = self._urgent[0]
            if self.calls.get(request) == moment:
                if moment > horizon:
                    break
                return self._taken(request)
            heapq.heappop(self._urgent)
        self._catch_up()
        while self._due:
            place = self._due[0]
            if self._served.get(place[3].task.key, 0.0) <= self._virtual and self._is_first(place):
                return self._taken(place[3])
            heapq.heappop(self._due)
        while self._ahead:
            served, place = self._ahead[0]
            if self._served.get(place[3].task.key) == served and self._is_first(place):
                return self._taken(place[3])
            heapq.heappop(self._ahead)
        return None

    def take_urgent(self, horizon: float, may: Callable[[Request], bool]) -> Request | None:
        """Take the first call that has to start by `horizon` and may; at most `FEW` calls are asked about."""
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
        heapq.heappush(self._catching_up, (self._served[key], key))
        self._catch_up()
        self._list(key)

    def _taken(self, request: Request) -> Request:
        self.discard(request)
        return request

    def _catch_up(self) -> None:
        """Forget how much a key was served once the others have caught up."""
        while self._catching_up and self._catching_up[0][0] <= self._virtual:
            served, key = heapq.heappop(self._catching_up)
            if self._served.get(key) == served:
                del self._served[key]
                self._list(key)

    def _is_first(self, place: Place) -> bool:
        return self._first(place[3].task.key) == place

    def _first(self, key: str) -> Place | None:
        """The first ready call of a key."""
        places = self._by_key.get(key)
        while places:
            if self.calls.get(places[0][3]) == places[0][1]:
                return places[0]
            heapq.heappop(places)
        self._by_key.pop(key, None)
        return None

    def _list(self, key: str) -> None:
        """Put the first call of a key into its heap."""
        place = self._first(key)
        if place is None:
            return
        served = self._served.get(key, 0.0)
        if served <= self._virtual:
            heapq.heappush(self._due, place)
        else:
            heapq.heappush(self._ahead, (served, place))
