"""How fast an upstream is: time to first token (TTFT) and time per output token (TPOT), learnt as it answers.

One `Latency` per endpoint. It keeps a recent window of each, answers with an upper quantile, and forgets what
is older. Two horizons are kept for TPOT: the window, in blocks of tokens of one pass, so that the jitter of a
single token does not count for a whole answer; and the present pace, the median of a call's latest tokens,
which follows a slow-down within three tokens and ignores a single stall, however many calls stalled together.
The larger of the two is the answer: planning must not wait for statistics while a deadline nears.

`speed` is how it is now. `at(load)` is how it would be with so many calls at once (`scheduler.load`): a task
that is to be admitted makes the others slower.

Nothing is assumed before the first tokens: `known` is False, and whoever plans has to do so without numbers
(`elastic_agent.scheduler.timing` then spends at most half of the time on thinking).
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple, Protocol

from elastic_agent.scheduler.load import SpeedByLoad, quantile_of


class Speed(NamedTuple):
    """What an endpoint takes, in seconds.

    Attributes:
        ttft, tpot: time to a pass's first token, and per token: upper quantiles of the window, or the present
            pace where that is slower.
        usual_ttft, usual_tpot: the medians of the window.
    """

    ttft: float
    tpot: float
    usual_ttft: float
    usual_tpot: float

    def answer(self, tokens: int, passes: int = 1) -> float:
        """Seconds for so many tokens in so many passes."""
        return passes * self.ttft + tokens * self.tpot

    def slowed(self, factor: float) -> Speed:
        """The same endpoint at so many times what it usually takes, or as it is where that is slower."""
        ttft, tpot = max(self.ttft, factor * self.usual_ttft), max(self.tpot, factor * self.usual_tpot)
        return Speed(ttft, tpot, self.usual_ttft, self.usual_tpot)


class Speeds(Protocol):
    """What decisions ask of an endpoint's speed: a `Latency`, or one that is written down or read back.

    Attributes:
        load: calls that run on it now; whoever starts and ends them says so.
    """

    load: int

    def speed(self) -> Speed | None:
        """What to plan with, or None before anything is known."""
        ...

    def at(self, load: int) -> Speed | None:
        """What it would be with so many calls at once; None while unknown."""
        ...


class Latency:
    """TTFT and TPOT of one endpoint.

    Args:
        quantile: which upper quantile counts.
        window: passes (for TTFT) and blocks (for TPOT) that are remembered.

    Attributes:
        load: calls that run on it now, as far as this process knows; whoever starts and ends them says so.
    """

    def __init__(self, *, quantile: float = 0.9, window: int = 64) -> None:
        self._quantile = quantile
        self._ttft: deque[float] = deque(maxlen=window)
        self._blocks: deque[float] = deque(maxlen=window)
        self._pace: float | None = None
        self._window: Speed | None = None  # both are made when somebody asks, and again after the next sample
        self._speed: Speed | None = None
        self.load = 1
        self._by_load = SpeedByLoad()
        self._lock = threading.Lock()  # calls of several event loops may share an endpoint

    @property
    def known(self) -> bool:
        """Both have been seen."""
        return self._pace is not None and bool(self._ttft)

    def first(self, seconds: float) -> None:
        """A pass brought its first token after this long."""
        with self._lock:
            self._ttft.append(max(0.0, seconds))
            self._by_load.first(self.load, max(0.0, seconds))
            self._window = self._speed = None

    def block(self, tokens: int, seconds: float) -> None:
        """So many tokens of one pass took this long: a sample of the window."""
        with self._lock:
            self._blocks.append(max(0.0, seconds) / tokens)
            self._by_load.block(self.load, tokens, max(0.0, seconds))
            self._window = self._speed = None

    def pace(self, each: float) -> None:
        """A call's latest tokens took this long each."""
        with self._lock:
            self._pace, self._speed = max(0.0, each), None

    def speed(self) -> Speed | None:
        """What to plan with, or None before anything is known."""
        speed = self._speed
        if speed is not None:
            return speed
        with self._lock:
            if self._pace is None or not self._ttft:
                return None
            if self._window is None:
                ttft, blocks, q = self._ttft, self._blocks or [self._pace], self._quantile
                latest = quantile_of(list(ttft)[-3:], 0.5)
                self._window = Speed(
                    max(quantile_of(ttft, q), latest),
                    quantile_of(blocks, q),
                    quantile_of(ttft, 0.5),
                    quantile_of(blocks, 0.5),
                )
            window = self._window
            self._speed = window if self._pace <= window.tpot else window._replace(tpot=self._pace)
            return self._speed

    def at(self, load: int) -> Speed | None:
        """What it would be with so many calls at once, in the present weather; None while unknown."""
        with self._lock:
            ttft, tpot, q = self._by_load.ttft, self._by_load.tpot, self._quantile
            first, each = ttft.at(load, q), tpot.at(load, q)
            usual_first, usual_each = ttft.at(load, 0.5), tpot.at(load, 0.5)
            weather = self._by_load.weather
        if first is None or each is None or usual_first is None or usual_each is None:
            return self.speed()
        return Speed(first, each, usual_first, usual_each).slowed(weather)


class Pace:
    """The tokens of one running call, on their way into a `Latency`."""

    LATEST, BLOCK = 5, 8

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self._gaps: deque[float] = deque(maxlen=self.LATEST)
        self._tokens, self._seconds = 0, 0.0

    def first(self, tokens: int, seconds: float) -> None:
        """The first chunk of a pass, after this long. One with many tokens tells their pace, too."""
        self._latency.first(seconds)
        self._tokens, self._seconds = 0, 0.0
        if tokens >= self.LATEST:
            self.more(tokens, seconds)

    def more(self, tokens: int, seconds: float) -> None:
        """A further chunk of the pass."""
        self._gaps.extend([seconds / tokens] * min(tokens, self.LATEST))
        if len(self._gaps) > self.LATEST // 2 or not self._latency.known:
            self._latency.pace(sorted(self._gaps)[len(self._gaps) // 2])
        self._tokens += tokens
        self._seconds += seconds
        if self._tokens >= self.BLOCK:
            self._latency.block(self._tokens, self._seconds)
            self._tokens, self._seconds = 0, 0.0
