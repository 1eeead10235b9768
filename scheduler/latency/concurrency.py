"""How an endpoint's speed depends on how many calls run on it at once. Plain arithmetic; no clock.

Samples of TTFT and TPOT are kept for each level of load: every number of calls up to 8, and steps of a fifth
above. `at(load)` answers with quantiles that never fall as the load grows: where a busier level looks faster,
the two are pooled (isotonic regression). A load between two known levels takes the lower level's time in
proportion, at most the upper level's. A load beyond the busiest known level takes that level's time in
proportion, too: a backend that serves its calls alike slows down by no more. With one known level, every load
counts as that level.

A slowdown is the other cause of slowness: an upstream that is shared with others, or in trouble, is slower at
every load. `slowdown` is the time of the latest tokens over the median at their load.

Time is counted as busy time: a block of tokens that took s seconds beside n calls stands for s / n seconds. A
level takes one sample in `GAP` busy seconds, and forgets samples that are older than its window. During a
slowdown a level with at least `FEW` samples records nothing; a newer level records each sample divided by the
slowdown (its baseline). So short spikes leave no trace. A slowdown that lasts longer than `LASTS` is no
longer taken for transient: its samples are recorded as they are. Slowdowns that have passed are remembered
(`slowdowns`).

More calls at once don't always bring more answers: a backend that is used to capacity only becomes slower
with each further call. `enough` is the load from which on that is so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from .prefill import First, FirstTokens, Line, quantile_of
from .slowdowns import Slowdowns

GAP = 1.0
"""Busy seconds between two samples of a level with at least `FEW` samples."""

FEW = 8

ENOUGH = 0.8
"""Calls at once are enough when they bring this share of the most answers a second."""

GAIN = 0.25
"""Fewer calls are enough only where n times as many, at the busiest known load, bring at most n ** GAIN times
the tokens a second. Where each call brings tokens of its own, all may run."""

KEEP, FIRST_PASS = 0.99, 64.0
"""The mean length of a pass: its decay at each pass, and its first value, in tokens."""

SLOW, LASTS = 1.5, 60.0
"""A known level records nothing during a slowdown of at least `SLOW` that has lasted at most `LASTS` busy
seconds."""

Fit = list[tuple[int, float]]
"""(level, value), both rising."""


class Levels:
    """One quantity (seconds) by level of load.

    Args:
        window: how many samples of a level are remembered.

    Attributes:
        samples: how many were recorded in all.
    """

    def __init__(self, window: int = 64) -> None:
        self._window = window
        self._samples: dict[int, deque[float]] = {}
        self._taken: dict[int, float] = {}
        self._fits: dict[float, list[tuple[int, float]]] = {}
        self.samples = 0

    @property
    def levels(self) -> list[int]:
        """The levels with samples, ascending."""
        return sorted(self._samples)

    def add(self, load: int, seconds: float, clock: float, *, transient: float = 1.0) -> None:
        """Add a sample at `clock` busy seconds; dropped if too soon after the last one of its level.

        Args:
            transient: the present slowdown, if it will probably pass; 1: none. A level with fewer than `FEW`
                samples records the sample divided by it.
        """
        level = level_of(load)
        kept = self._samples.setdefault(level, deque(maxlen=self._window))
        if len(kept) >= FEW and (transient > 1.0 or clock - self._taken[level] < GAP):
            return
        kept.append(seconds / transient)
        self.samples += 1
        self._taken[level] = clock
        self._fits.clear()

    def at(self, load: int, quantile: float) -> float | None:
        """The quantile at this load; None before the first sample."""
        fit = self._fits.get(quantile)
        if fit is None:
            fit = self._fits[quantile] = self._fit(quantile)
        return read_off(fit, load)

    def _fit(self, quantile: float) -> Fit:
        return rising((level, quantile_of(s, quantile), len(s)) for level, s in sorted(self._samples.items()))


class FirstsByLoad:
    """TTFT by level of load, as a function of the prompt.

    The time per prompt token is known on levels with prompts of different lengths, and is read off for the
    others; the fixed part is the rest of each level's TTFT.
    """

    def __init__(self) -> None:
        self._levels: dict[int, FirstTokens] = {}
        self._taken: dict[int, float] = {}
        self._fits: dict[float, tuple[Fit, Fit, float, float]] = {}

    def add(self, load: int, first: First, clock: float, *, transient: float = 1.0) -> None:
        """Add a sample, as `Levels.add`; a dropped one still counts among the prompts of its length."""
        level = level_of(load)
        firsts = self._levels.setdefault(level, FirstTokens())
        if transient > 1.0:
            baseline = replace(first, seconds=first.seconds / transient)
            first.baseline, first = baseline, baseline
        firsts.length(first, transient=transient > 1.0)
        self._fits.clear()
        if len(firsts) >= FEW and (transient > 1.0 or clock - self._taken[level] < GAP):
            return
        firsts.latest.append(first)
        self._taken[level] = clock

    def changed(self) -> None:
        """The upstream has reported a prompt's cached tokens."""
        self._fits.clear()

    def at(self, load: int, quantile: float) -> Line | None:
        """The quantile at this load; None before the first sample."""
        found = self._fits.get(quantile)
        if found is None:
            found = self._fits[quantile] = self._fit(quantile)
        fixed, each, again, later = found
        ttft = read_off(fixed, load)
        return None if ttft is None else Line(ttft, read_off(each, load) or 0.0, again, later)

    def _fit(self, quantile: float) -> tuple[Fit, Fit, float, float]:
        levels = sorted(self._levels.items())
        slopes = [(level, firsts.slope(), len(firsts)) for level, firsts in levels]
        known = [one for one in slopes if one[1]]
        slope = rising(known)
        lines = {level: firsts.line(read_off(slope, level) or 0.0, quantile) for level, firsts in levels}
        return (
            rising((level, lines[level].ttft, size) for level, _, size in slopes),
            rising((level, lines[level].prefill, size) for level, _, size in known),
            max([lines[level].again for level, _, _ in known], default=1.0),
            max([lines[level].later for level, _, _ in known], default=1.0),
        )


class SpeedByLoad:
    """TTFT and TPOT of one endpoint by load, and its present slowdown."""

    LATEST = 9

    def __init__(self) -> None:
        self.ttft, self.tpot = FirstsByLoad(), Levels()
        self._clock = self._baseline_until = 0.0
        self._passes, self._tokens = 1.0, FIRST_PASS
        self._enough: dict[int, tuple[int, int]] = {}  # by limit: `tpot.samples` at that time, and the result
        self._latest: deque[float] = deque(maxlen=self.LATEST)
        self.slowdowns = Slowdowns()

    def first(self, load: int, first: First) -> None:
        """Record a pass's first token."""
        self._passes, self._tokens = KEEP * self._passes + 1, KEEP * self._tokens
        self.ttft.add(load, first, self._clock, transient=self._transient)

    def block(self, load: int, tokens: int, seconds: float) -> None:
        """Record that so many tokens of one pass took this long."""
        each, usual = seconds / tokens, self.tpot.at(load, 0.5)
        self._tokens += tokens
        self._latest.append(1.0 if not usual else each / usual)
        busy = seconds / max(1, load)
        self._clock += busy
        slowdown = self.slowdown
        if slowdown < SLOW:
            self._baseline_until = self._clock
        self.slowdowns.note(slowdown, self._clock, busy, slow=slowdown >= SLOW)
        self.tpot.add(load, each, self._clock, transient=self._transient)

    def enough(self, most: int) -> int:
        """The fewest calls at once that bring `ENOUGH` of the most answers a second; `most` if more may help.

        An answer takes the time to its first token, and the time of a usual pass's tokens.
        """
        samples, found = self.tpot.samples, self._enough.get(most)
        if found is None or found[0] != samples:
            found = self._enough[most] = samples, self._fewest(most)
        return found[1]

    def _fewest(self, most: int) -> int:
        size, rates, tokens = self._tokens / self._passes, {}, {}
        for level in self.tpot.levels:
            first, each = self.ttft.at(level, 0.5), self.tpot.at(level, 0.5)
            if level <= most and first is not None and each is not None:
                rates[level] = level / max(first.ttft + size * each, 1e-9)
                tokens[level] = level / max(each, 1e-9)
        top, best = max(rates, default=most), max(rates.values(), default=0.0)
        for level, rate in rates.items():
            flat = tokens[top] <= tokens[level] * (top / level) ** GAIN
            if level < top and flat and rate >= ENOUGH * best:
                return level
        return most

    @property
    def _transient(self) -> float:
        """The present slowdown; 1 where there is none, or where it has lasted longer than `LASTS`."""
        return self.slowdown if 0 < self._clock - self._baseline_until < LASTS else 1.0

    @property
    def slowdown(self) -> float:
        """The time of the latest tokens over the median at their load; at least 1."""
        return max(1.0, quantile_of(self._latest, 0.5)) if self._latest else 1.0


def level_of(load: int) -> int:
    """The level that a load belongs to: itself up to 8, then the lower end of a step of about a fifth."""
    level = max(1, min(load, 8))
    while (above := level + max(1, level // 5)) <= load:
        level = above
    return level


Pool = tuple[list[int], float, float]
"""Neighbouring points as one: their places, their mean, their weight."""


def rising(
    points: Iterable[tuple[int, float, float]],
    stays: Callable[[Pool, Pool], bool] = lambda left, right: False,
) -> Fit:
    """(place, value) of points (place, value, weight), with values that don't fall (isotonic regression).

    Neighbours in the wrong order share their mean (pool adjacent violators), unless their fall `stays`.
    """
    pools: list[Pool] = []
    for place, value, weight in points:
        pool: Pool = ([place], value, weight)
        while pools and pools[-1][1] > pool[1] and not stays(pools[-1], pool):
            places, mean, size = pools.pop()
            total = size + pool[2]
            pool = (places + pool[0], (mean * size + pool[1] * pool[2]) / total, total)
        pools.append(pool)
    return [(place, value) for places, value, _ in pools for place in places]


def read_off(fit: Fit, load: int) -> float | None:
    """The value at any load, also between and beyond the known levels; None before the first sample."""
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
