"""List scheduling: work laid onto an endpoint's slots. Arithmetic on moments and seconds.

A task with a deadline is promised its final answer in time. The least work for that is a row of stages: the
solutions of its calls, one after the other or side by side, without any thinking, since thinking gives way.
`serve` takes tasks by deadline, as the endpoint's queue does, and says when the work of each is over.
`latest_free_times` goes the other way: from the calls that wait back to the moments at which running calls
have to give up their slots.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..ledger.amounts import INFINITY


class Stage(NamedTuple):
    """Calls of a task that run side by side, and the seconds of each."""

    width: int
    seconds: float


class Job(NamedTuple):
    """The remaining work of one task.

    Attributes:
        ready: when its running calls can be over.
        stages: one after the other.
        spare: seconds by which the last answer may be longer than is usual. They count for this task's own
            end, and delay no other task.
    """

    ready: float
    stages: tuple[Stage, ...]
    spare: float = 0.0

    @property
    def alone(self) -> float:
        """Seconds of all stages, without any wait for a slot."""
        return sum(stage.seconds for stage in self.stages) + self.spare


def serve(jobs: Iterable[Job], slots: list[float]) -> Iterator[float]:
    """Yield when each job is over, served in this order.

    Args:
        slots: a heap of the moments at which the slots are free; it moves on with each job.
    """
    for ready, stages, spare in jobs:
        moment = ready
        for width, seconds in stages:
            if width == 1:  # nearly all are; there may be thousands
                free = slots[0]
                moment = (free if free > moment else moment) + seconds
                heapq.heapreplace(slots, moment)
                continue
            over = moment
            for _ in range(width):
                free = slots[0]
                end = (free if free > moment else moment) + seconds
                heapq.heapreplace(slots, end)
                over = end if end > over else over
            moment = over
        yield moment + spare


def latest_free_times(waiting: Sequence[tuple[float, float]], slots: int) -> list[list[float]]:
    """For each slot the latest times by which it must become free, one for each waiting call that it takes.

    The times of a slot fall: the soonest is the last. A slot that no call needs has none.

    Args:
        waiting: of each call, when it has to start, and the least seconds that it then takes.
    """
    found: list[list[float]] = [[] for _ in range(slots)]
    heap = [(-INFINITY, slot) for slot in range(slots)]  # negated: the slot that is needed last comes first
    for start, seconds in sorted(waiting, reverse=True):
        then, slot = heapq.heappop(heap)
        moment = min(start, -then - seconds)
        found[slot].append(moment)
        heapq.heappush(heap, (-moment, slot))
    return found


def merged(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """The stages, with calls one after the other as one stage: these keep their slot."""
    found: list[Stage] = []
    for stage in stages:
        if found and stage.width == found[-1].width == 1:
            found[-1] = Stage(1, found[-1].seconds + stage.seconds)
        else:
            found.append(stage)
    return tuple(found)
