"""How fast an endpoint is: time to first token (TTFT) and time per output token (TPOT), learnt as it answers.

One `Latency` per endpoint. It keeps a recent window of each, and answers with an upper quantile. TTFT has a
fixed part and a part in proportion to the prompt (`prefill`). TPOT has two horizons. The window holds blocks
of tokens of one pass, so that the jitter of a single token doesn't count for a whole answer. The present pace
is the median of a call's latest tokens: it follows a slowdown within three tokens, and ignores a single
stall, however many calls stall together. The larger of the two is the answer: planning must not wait for
statistics while a deadline nears.

`speed` is how the endpoint is now. `at(load)` is how it would be with so many calls at once (`concurrency`):
a task that is to be admitted makes the others slower.

Nothing is assumed before the first tokens: `known` is False, and `slack` then spends at most half of the time
on thinking. Passes that were sent before anything was answered may have waited for the upstream's own start;
they count until a pass that was sent later has its first token.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple, Protocol

from .concurrency import FirstsByLoad, SpeedByLoad
from .prefill import First, FirstTokens, Line, quantile_of
from .slowdowns import Slowdown


class Speed(NamedTuple):
    """What an endpoint takes, in seconds.

    Attributes:
        ttft, tpot: time to a pass's first token, without its prompt, and per token: upper quantiles of the
            window, or the present pace where that is slower.
        usual_ttft, usual_tpot: medians without slowdowns; with as many calls at once as there will be, on an
            endpoint whose calls take turns.
        prefill, usual_prefill: the same per prompt token that is read; 0 before prompts of different lengths
            were seen: `ttft` is then that of prompts like those seen.
        again: share of its prompt that a further pass of the same call reads.
        later: share of its prompt that a later call of the same task reads.
        slower, lasts, every: the next slowdown (`slowdowns.Slowdown`).
        now: the time of a token at present, as a multiple of the usual one.
        left: seconds until the present slowdown is probably over; 0: unknown, or nothing is slow.
        enough: calls at once beyond which more bring hardly more answers; 0: unknown.
    """

    ttft: float
    tpot: float
    usual_ttft: float
    usual_tpot: float
    prefill: float = 0.0
    usual_prefill: float = 0.0
    again: float = 1.0
    later: float = 1.0
    slower: float = 1.0
    lasts: float = 0.0
    every: float = 0.0
    now: float = 1.0
    left: float = 0.0
    enough: int = 0

    def expected(self) -> Speed:
        """The usual speed in the present slowdown; without the slowdown where its end is known.

        For sums over many answers, for which upper quantiles would say too much.
        """
        factor = 1.0 if self.left else self.now
        return self._replace(
            ttft=factor * self.usual_ttft,
            tpot=factor * self.usual_tpot,
            prefill=factor * self.usual_prefill,
        )

    def fits(self, seconds: float) -> float:
        """Seconds of work at the `expected` speed that are done in so many seconds from now."""
        if not self.left:
            return seconds
        return max(seconds / self.now, seconds - self.left * (1 - 1 / self.now))

    def takes(self, seconds: float) -> float:
        """Seconds from now until work of so many seconds at the `expected` speed is done; undoes `fits`."""
        if not self.left:
            return seconds
        return min(seconds * self.now, seconds + self.left * (1 - 1 / self.now))

    @property
    def slowdown(self) -> Slowdown:
        """The next one."""
        return Slowdown(self.slower, self.lasts, self.every)

    @property
    def best(self) -> Speed:
        """The usual speed, or the present one where that is faster."""
        return self._replace(
            ttft=min(self.ttft, self.usual_ttft),
            tpot=min(self.tpot, self.usual_tpot),
            prefill=min(self.prefill, self.usual_prefill),
        )

    def answer(self, tokens: int, prompt: float, passes: int = 1) -> float:
        """Seconds for so many tokens in so many passes of one call.

        Args:
            prompt: its length in tokens; each pass after the first reads `again` of it.
        """
        read = prompt if passes == 1 else prompt * (1 + (passes - 1) * self.again)
        return passes * self.ttft + read * self.prefill + tokens * self.tpot

    def slowed(self, factor: float) -> Speed:
        """The speed at `factor` times the usual times, or as it is where that is slower."""
        return self._replace(
            ttft=max(self.ttft, factor * self.usual_ttft),
            tpot=max(self.tpot, factor * self.usual_tpot),
            prefill=max(self.prefill, factor * self.usual_prefill),
        )


class Speeds(Protocol):
    """What decisions need of an endpoint's speed: a `Latency`, or one that is logged or read from a log."""

    def occupy(self, load: int, most: int | None) -> None:
        """So many calls run now, of at most so many at once; None: no limit."""
        ...

    def speed(self) -> Speed | None:
        """The speed to plan with; None: unknown."""
        ...

    def at(self, load: int) -> Speed | None:
        """The speed with so many calls at once; None: unknown."""
        ...


class Latency:
    """TTFT and TPOT of one endpoint; a `Speeds`.

    Args:
        quantile: which upper quantile counts.
        window: how many passes (for TTFT) and blocks (for TPOT) are remembered.
    """

    def __init__(self, *, quantile: float = 0.9, window: int = 64) -> None:
        self._quantile, self._size = quantile, window
        self._first = FirstTokens(window)
        self._warm = False
        self._blocks: deque[float] = deque(maxlen=window)
        self._pace: float | None = None
        self._window: Speed | None = None  # both are worked out on demand; a new sample clears them
        self._speed: Speed | None = None
        self.load = 1
        self.most: int | None = None
        self._by_load = SpeedByLoad()
        self._lock = threading.Lock()  # calls of several event loops may share an endpoint

    def occupy(self, load: int, most: int | None) -> None:
        """See `Speeds`."""
        self.load, self.most = load, most

    @property
    def known(self) -> bool:
        """Whether a first token and a further one were seen."""
        return self._pace is not None and len(self._first) > 0

    @property
    def cold(self) -> bool:
        """Whether nothing was answered yet: a pass that is sent now may wait for the upstream's start."""
        return not self._first.latest

    def first(self, first: First, *, cold: bool = False) -> First:
        """Record a pass's first token, and return it for `record_cached`.

        Args:
            cold: the pass was sent when nothing had been answered.
        """
        with self._lock:
            if cold and self._warm:
                return first
            if not (cold or self._warm):
                self._warm = True
                self._first, self._by_load.ttft = FirstTokens(self._size), FirstsByLoad()
            self._first.latest.append(first)
            self._first.length(first)
            self._by_load.first(self.load, first)
            self._window = self._speed = None
        return first

    def record_cached(self, first: First, cached: int) -> None:
        """The upstream had so many of this pass's input tokens in its cache."""
        with self._lock:
            first.cached = cached
            if first.baseline is not None:
                first.baseline.cached = cached
            self._by_load.ttft.changed()
            self._window = self._speed = None

    def block(self, tokens: int, seconds: float) -> None:
        """Record that so many tokens of one pass took this long: a sample of the window."""
        with self._lock:
            self._blocks.append(max(0.0, seconds) / tokens)
            self._by_load.block(self.load, tokens, max(0.0, seconds))
            self._window = self._speed = None

    def pace(self, each: float) -> None:
        """Record that a call's latest tokens took this long each."""
        with self._lock:
            self._pace, self._speed = max(0.0, each), None

    def speed(self) -> Speed | None:
        """The speed to plan with; None: unknown."""
        speed = self._speed
        if speed is not None:
            return speed
        with self._lock:
            if self._pace is None or not self._first.latest:
                return None
            if self._window is None:
                first, blocks, q = self._first, self._blocks or [self._pace], self._quantile
                slope = first.slope()
                upper, usual = first.line(slope, q), first.line(slope, 0.5)
                latest = quantile_of(first.rest(slope)[-3:], 0.5)
                usual, each = self._ahead(usual, quantile_of(blocks, 0.5))
                self._window = Speed(
                    max(upper.ttft, latest),
                    quantile_of(blocks, q),
                    usual.ttft,
                    each,
                    upper.prefill,
                    usual.prefill,
                    upper.again,
                    upper.later,
                    *self._by_load.slowdowns.next,
                    enough=self._enough(),
                )
            window = self._window
            self._speed = window if self._pace <= window.tpot else window._replace(tpot=self._pace)
            return self._speed

    def _enough(self) -> int:
        return 0 if self.most is None else self._by_load.enough(self.most)

    def _ahead(self, usual: Line, each: float) -> tuple[Line, float]:
        """The usual time of first tokens and tokens: with as many calls at once as there will be, if known.

        The window itself, of a few seconds, knows only the present load, and takes a slowdown for usual.
        """
        firsts, tokens = self._by_load.ttft, self._by_load.tpot
        if self.most is None:
            return usual, tokens.at(self.load, 0.5) or each
        load = max(self.load, self._enough())
        return firsts.at(load, 0.5) or usual, tokens.at(load, 0.5) or each

    def at(self, load: int) -> Speed | None:
        """The speed with so many calls at once, in the present slowdown; None: unknown."""
        with self._lock:
            ttft, tpot, q = self._by_load.ttft, self._by_load.tpot, self._quantile
            first, each = ttft.at(load, q), tpot.at(load, q)
            usual_first, usual_each = ttft.at(load, 0.5), tpot.at(load, 0.5)
            slowdown = self._by_load.slowdown
        if first is None or each is None or usual_first is None or usual_each is None:
            return self.speed()
        found = Speed(
            first.ttft,
            each,
            usual_first.ttft,
            usual_each,
            first.prefill,
            usual_first.prefill,
            first.again,
            first.later,
            *self._by_load.slowdowns.next,
            slowdown,
            self._by_load.slowdowns.left,
            self._enough(),
        )
        return found.slowed(slowdown)


class Pace:
    """The tokens of one running call, on their way into a `Latency`."""

    LATEST, BLOCK = 5, 8

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self._gaps: deque[float] = deque(maxlen=self.LATEST)
        self._tokens, self._seconds = 0, 0.0

    def first(self, tokens: int, first: First, *, cold: bool = False) -> First:
        """Record the first chunk of a pass, as `Latency.first`; one with many tokens also gives the pace."""
        self._latency.first(first, cold=cold)
        self._tokens, self._seconds = 0, 0.0
        if tokens >= self.LATEST:
            self.more(tokens, first.seconds)
        return first

    def more(self, tokens: int, seconds: float) -> None:
        """Record a further chunk of the pass."""
        self._gaps.extend([seconds / tokens] * min(tokens, self.LATEST))
        if len(self._gaps) > self.LATEST // 2 or not self._latency.known:
            self._latency.pace(sorted(self._gaps)[len(self._gaps) // 2])
        self._tokens += tokens
        self._seconds += seconds
        if self._tokens >= self.BLOCK:
            self._latency.block(self._tokens, self._seconds)
            self._tokens, self._seconds = 0, 0.0
