"""How fast an endpoint is: time to first token (TTFT) and time per output token (TPOT), learnt as it answers.

One `Latency` per endpoint. It keeps a recent window of each, answers with an upper quantile, and forgets what
is older. TTFT has two parts, a fixed one and one in proportion to the prompt (`prefill`). Two
horizons are kept for TPOT: the window, in blocks of tokens of one pass, so that the jitter of a single token
does not count for a whole answer; and the present pace, the median of a call's latest tokens, which follows a
slow-down within three tokens and ignores a single stall, however many calls stalled together. The larger of
the two is the answer: planning must not wait for statistics while a deadline nears.

`speed` is how it is now. `at(load)` is how it would be with so many calls at once (`concurrency`): a task
that is to be admitted makes the others slower.

Nothing is assumed before the first tokens: `known` is False, and `slack` then spends at most half of the time
on thinking. Passes that were sent before anything was answered may have waited for the upstream's own start;
they count until one that was sent later is there.
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
        ttft, tpot: time to a pass's first token, its prompt not counted, and per token: upper quantiles of
            the window, or the present pace where that is slower.
        usual_ttft, usual_tpot: medians, with slowdowns left out; on an endpoint whose calls take turns with
            as many at once as there will be.
        prefill, usual_prefill: the same for each prompt token that is read; 0 until prompts of different
            lengths were seen: `ttft` is then that of prompts like those.
        again: share of its prompt that a further pass of the same call reads.
        later: share of its prompt that a later call of the same task reads.
        slower, lasts, every: the next slowdown (`slowdowns.Slowdown`).
        now: what tokens take at present, as a multiple of what is usual.
        left: seconds until that is probably over; 0: that isn't known, or nothing is slow.
        enough: calls at once beyond which more bring hardly more answers; 0: that isn't known.
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
        """The usual one, as it is while the present slowdown lasts; without that where its end is known.

        For sums over many answers: what single tokens or a level of load that was hardly seen took at worst
        says nothing of these.
        """
        factor = 1.0 if self.left else self.now
        return self._replace(
            ttft=factor * self.usual_ttft,
            tpot=factor * self.usual_tpot,
            prefill=factor * self.usual_prefill,
        )

    def fits(self, seconds: float) -> float:
        """Seconds of work at the `expected` speed that get done in so many seconds from now."""
        if not self.left:
            return seconds
        return max(seconds / self.now, seconds - self.left * (1 - 1 / self.now))

    def takes(self, seconds: float) -> float:
        """Seconds from now for work of so many seconds at the `expected` speed; undoes `fits`."""
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
        """The same endpoint at so many times what it usually takes, or as it is where that is slower."""
        return self._replace(
            ttft=max(self.ttft, factor * self.usual_ttft),
            tpot=max(self.tpot, factor * self.usual_tpot),
            prefill=max(self.prefill, factor * self.usual_prefill),
        )


class Speeds(Protocol):
    """What decisions ask of an endpoint's speed: a `Latency`, or one that is written down or read back.

    Attributes:
        load: calls that run on it now; whoever starts and ends them says so.
        most: calls that may run on it at once; None: no limit.
    """

    load: int
    most: int | None

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
        most: calls that may run on it at once; None: no limit.
    """

    def __init__(self, *, quantile: float = 0.9, window: int = 64) -> None:
        self._quantile, self._size = quantile, window
        self._first = FirstTokens(window)
        self._warm = False
        self._blocks: deque[float] = deque(maxlen=window)
        self._pace: float | None = None
        self._window: Speed | None = None  # both are made when somebody asks, and again after the next sample
        self._speed: Speed | None = None
        self.load = 1
        self.most: int | None = None
        self._by_load = SpeedByLoad()
        self._lock = threading.Lock()  # calls of several event loops may share an endpoint

    @property
    def known(self) -> bool:
        """Both have been seen."""
        return self._pace is not None and len(self._first) > 0

    @property
    def cold(self) -> bool:
        """Nothing was answered yet: a pass that is sent now may wait for the upstream's start."""
        return not self._first.latest

    def first(
        self,
        seconds: float,
        prompt: int = 0,
        *,
        further: bool = False,
        later: bool = False,
        cached: int | None = None,
        cold: bool = False,
    ) -> First:
        """A pass brought its first token after this long.

        Args:
            prompt: input tokens that it sent.
            further: it is not its call's first.
            later: its call is not its task's first.
            cached: how many of them the upstream had; None: not said yet (see `record_cached`).
            cold: it was sent when nothing had been answered.
        """
        found = First(max(0.0, seconds), prompt, further, later, cached)
        with self._lock:
            if cold and self._warm:
                return found
            if not (cold or self._warm):
                self._warm = True
                self._first, self._by_load.ttft = FirstTokens(self._size), FirstsByLoad()
            self._first.latest.append(found)
            self._first.length(found)
            self._by_load.first(self.load, found)
            self._window = self._speed = None
        return found

    def record_cached(self, first: First, cached: int) -> None:
        """The upstream had so many of this pass's input tokens."""
        with self._lock:
            first.cached = cached
            if first.baseline is not None:
                first.baseline.cached = cached
            self._by_load.ttft.changed()
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
        """What first tokens and tokens usually take: with as many calls at once as there will be, if known.

        A window of a few seconds calls usual what a slowdown takes, and knows only the present load.
        """
        firsts, tokens = self._by_load.ttft, self._by_load.tpot
        if self.most is None:
            return usual, tokens.at(self.load, 0.5) or each
        load = max(self.load, self._enough())
        return firsts.at(load, 0.5) or usual, tokens.at(load, 0.5) or each

    def at(self, load: int) -> Speed | None:
        """What it would be with so many calls at once, with the present slowdown; None while unknown."""
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

    def first(
        self,
        tokens: int,
        seconds: float,
        prompt: int = 0,
        *,
        further: bool = False,
        later: bool = False,
        cached: int | None = None,
        cold: bool = False,
    ) -> First:
        """The first chunk of a pass, after this long. One with many tokens tells their pace, too.

        For the rest see `Latency.first`.
        """
        found = self._latency.first(seconds, prompt, further=further, later=later, cached=cached, cold=cold)
        self._tokens, self._seconds = 0, 0.0
        if tokens >= self.LATEST:
            self.more(tokens, seconds)
        return found

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
