"""How an endpoint's speed depends on how many calls run on it at once. Plain arithmetic; no clock.

Samples of TTFT and TPOT are kept for each level of load: every number of calls up to 8, and steps of a
fifth above. `at(load)` answers with quantiles that never fall as the load grows: where a busier level looks
faster, the two are pooled (isotonic regression). A load between two known ones takes the lower one's time
in proportion, at most the upper one's. Beyond the busiest known one it is in proportion, too: the most that
a backend slows down by which serves its calls alike. One level alone says nothing of others: it counts as
it is.

Load is one cause of slowness, and the weather another: an upstream that others use, or that is ill, is slower
at every load. `weather` is what the latest tokens took as a multiple of what is usual at their load.

Time is counted as busy time: a block of tokens that took s seconds beside n calls stands for s / n of them. A
level takes one sample in `GAP` such seconds and forgets what is older than its window. In bad weather a level
that is known learns nothing, and one that is hardly known what it would be in calm weather: a spike is over
when it is over, does not slow plans down for minutes after, and does not count twice.
Weather that lasts becomes what is usual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

GAP = 1.0
"""Busy seconds between two samples of a level, once it has a few."""

FEW = 8

STORM, LASTS = 1.5, 60.0
"""Weather from which on a level that is known learns nothing, unless it has lasted so many busy seconds."""


class Levels:
    """One quantity (seconds) by level of load.

    Args:
        window: samples of a level that are remembered.
    """

    def __init__(self, window: int = 64) -> None:
        self._window = window
        self._samples: dict[int, deque[float]] = {}
        self._taken: dict[int, float] = {}
        self._fits: dict[float, list[tuple[int, float]]] = {}

    def add(self, load: int, seconds: float, clock: float, *, storm: float = 1.0) -> None:
        """One more sample, at so many busy seconds; too soon after the last of its level it is dropped.

        Args:
            storm: so many times as slow as usual it is for now; a level that is hardly known learns what that
                would be in calm weather.
        """
        level = level_of(load)
        samples = self._samples.setdefault(level, deque(maxlen=self._window))
        if len(samples) >= FEW and (storm > 1.0 or clock - self._taken[level] < GAP):
            return
        samples.append(seconds / storm)
        self._taken[level] = clock
        self._fits.clear()

    def at(self, load: int, quantile: float) -> float | None:
        """What it is at this load; None before the first sample."""
        fit = self._fits.get(quantile)
        if fit is None:
            fit = self._fits[quantile] = self._fit(quantile)
        if not fit:
            return None
        if len(fit) == 1:
            return fit[0][1]
        below = next(((level, value) for level, value in reversed(fit) if level <= load), None)
        above = next((value for level, value in fit if level >= load), None)
        if below is None:
            return above
        scaled = below[1] * load / below[0]
        return scaled if above is None else min(scaled, above)

    def _fit(self, quantile: float) -> list[tuple[int, float]]:
        """(level, value), neither falling: neighbours in the wrong order share their mean."""
        pools: list[tuple[list[int], float, int]] = []  # levels, mean, samples
        for level in sorted(self._samples):
            samples = self._samples[level]
            pool = ([level], quantile_of(samples, quantile), len(samples))
            while pools and pools[-1][1] > pool[1]:
                levels, mean, size = pools.pop()
                total = size + pool[2]
                pool = (levels + pool[0], (mean * size + pool[1] * pool[2]) / total, total)
            pools.append(pool)
        return [(level, value) for levels, value, _ in pools for level in levels]


class SpeedByLoad:
    """TTFT and TPOT of one endpoint by load, and its present weather."""

    LATEST = 9

    def __init__(self) -> None:
        self.ttft, self.tpot = Levels(), Levels()
        self._clock = self._calm = 0.0
        self._latest: deque[float] = deque(maxlen=self.LATEST)

    def first(self, load: int, seconds: float) -> None:
        """A pass brought its first token after this long."""
        self.ttft.add(load, seconds, self._clock, storm=self._storm)

    def block(self, load: int, tokens: int, seconds: float) -> None:
        """So many tokens of one pass took this long."""
        each, usual = seconds / tokens, self.tpot.at(load, 0.5)
        self._latest.append(1.0 if not usual else each / usual)
        self._clock += seconds / max(1, load)
        if self.weather < STORM:
            self._calm = self._clock
        self.tpot.add(load, each, self._clock, storm=self._storm)

    @property
    def _storm(self) -> float:
        """How slow it is in a way that will hopefully pass; 1 where it isn't, or where it has lasted."""
        return self.weather if 0 < self._clock - self._calm < LASTS else 1.0

    @property
    def weather(self) -> float:
        """What tokens take now, as a multiple of what is usual at their load; at least 1."""
        return max(1.0, quantile_of(self._latest, 0.5)) if self._latest else 1.0


def level_of(load: int) -> int:
    """The level that a load belongs to: itself up to 8, then the lower end of a step of about a fifth."""
    level = max(1, min(load, 8))
    while (above := level + max(1, level // 5)) <= load:
        level = above
    return level


def quantile_of(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
