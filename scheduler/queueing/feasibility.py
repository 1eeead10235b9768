"""Which deadlines can be kept: answers laid onto an endpoint's slots. Arithmetic on moments and seconds.

An admitted task has been promised its final answer in time. What it must do for that, at the least, is a
row of stages: the solutions of its calls, one after the other or side by side, without any thinking, since
thinking gives way. `serve` serves tasks one after the other, by deadline, as the endpoint's queue does, and
says when each is over. `latest` looks the other way: from the calls that wait back to the moments at which
running ones have to make room for them.
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
    """What one task still has to do.

    Attributes:
        ready: when its running calls can be over.
        stages: one after the other.
        spare: seconds by which its last answer may turn out longer than is usual. They count for this task's
            own end; others are only kept waiting for what is usual.
    """

    ready: float
    stages: tuple[Stage, ...]
    spare: float = 0.0

    @property
    def alone(self) -> float:
        """Seconds of all stages, without waiting for anybody."""
        return sum(stage.seconds for stage in self.stages) + self.spare


def serve(jobs: Iterable[Job], slots: list[float]) -> Iterator[float]:
    """When each job is over, served in this order, as far as anybody asks.

    Args:
        slots: when each slot is free, as a heap; afterwards: when each is free after these jobs.
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


def needs(waiting: Sequence[tuple[float, float]], slots: int) -> list[list[float]]:
    """Of each slot, when it has to be free at the latest, once for each call that it takes; the soonest last.

    Args:
        waiting: of each call, when it has to start and how many seconds it then takes, at the least.
    """
    found: list[list[float]] = [[] for _ in range(slots)]
    heap = [(-INFINITY, slot) for slot in range(slots)]  # negated: the slot that is needed last comes first
    for start, seconds in sorted(waiting, reverse=True):
        then, slot = heapq.heappop(heap)
        moment = min(start, -then - seconds)
        found[slot].append(moment)
        heapq.heappush(heap, (-moment, slot))
    return found


def latest(waiting: Sequence[tuple[float, float]], slots: int) -> list[float]:
    """When each slot has to be free for the first time, at the latest: from the earliest moment on.

    Infinity stands for a slot that nobody needs.
    """
    return sorted(slot[-1] if slot else INFINITY for slot in needs(waiting, slots))


def merged(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Calls one after the other as one: they keep their slot."""
    found: list[Stage] = []
    for stage in stages:
        if found and stage.width == found[-1].width == 1:
            found[-1] = Stage(1, found[-1].seconds + stage.seconds)
        else:
            found.append(stage)
    return tuple(found)
