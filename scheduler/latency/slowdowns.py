"""Slowdowns that an endpoint has had: how often, how slow, how long. Plans keep time for the next one.

A slowdown is a stretch of time in which tokens take at least `concurrency.SLOW` times their usual time at the
same load. The latest `KEPT` are remembered. If the next one begins while an answer is under way, the answer
takes `factor` times as long while the slowdown lasts. Thinking has to end early enough for that, or the
answer pays for it. The longer an endpoint has stayed even, the more it is trusted: `every` grows.

All seconds are busy seconds, as in `concurrency`: while calls run they pass like those of a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

KEPT = 8
"""How many slowdowns are remembered."""


class Slowdown(NamedTuple):
    """The next slowdown, by those seen lately.

    Attributes:
        factor: everything takes so many times as long: that of the slowest; 1: none was seen.
        lasts: seconds of the longest.
        every: seconds from one to the next, on average.
    """

    factor: float = 1.0
    lasts: float = 0.0
    every: float = 0.0

    def delay(self, seconds: float) -> float:
        """Seconds that a slowdown adds to work of so many seconds when both begin in one moment."""
        return min(seconds * (self.factor - 1), self.lasts * (1 - 1 / self.factor))

    def accepted(self, risk: float) -> float:
        """Seconds of `delay` for which no time is kept, where plans may fail with this probability.

        A slowdown that begins x seconds after the work adds (factor - 1) * x less to the work. A slowdown
        begins within these x seconds with a probability of x / every.
        """
        return risk * self.every * (self.factor - 1)


@dataclass(slots=True)
class _Seen:
    """One slowdown; `lost`: the sum of its seconds, each times its factor."""

    began: float
    ended: float
    lost: float = 0.0
    seconds: float = 0.0

    @property
    def factor(self) -> float:
        """Its average factor."""
        return self.lost / self.seconds


class Slowdowns:
    """See the module."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque(maxlen=KEPT)
        self._on = False
        self._next = Slowdown()

    def note(self, factor: float, clock: float, seconds: float, *, slow: bool) -> None:
        """Tokens have taken `factor` times their usual time, for so many seconds up to `clock`.

        Args:
            slow: that is slow enough to count.
        """
        if slow:
            if not self._on:
                self._seen.append(_Seen(clock - seconds, clock))
            last = self._seen[-1]
            last.ended = clock
            last.lost += factor * seconds
            last.seconds += seconds
        self._on = slow
        if self._seen:
            since = self._seen[0].began if len(self._seen) == KEPT else 0.0
            self._next = Slowdown(
                max(one.factor for one in self._seen),
                max(one.ended - one.began for one in self._seen),
                (clock - since) / len(self._seen),
            )

    @property
    def next(self) -> Slowdown:
        """The next slowdown to expect."""
        return self._next

    @property
    def left(self) -> float:
        """Seconds until the present slowdown is over, if it lasts as long as the longest; 0: unknown."""
        if not self._on or len(self._seen) < 2:
            return 0.0
        now = self._seen[-1]
        longest = max(one.ended - one.began for one in list(self._seen)[:-1])
        return max(0.0, longest - (now.ended - now.began))
