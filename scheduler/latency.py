"""How fast an upstream is: time to first token (TTFT) and time per output token (TPOT), learnt as it answers.

One `Latency` per endpoint. It keeps a recent window of each, answers with an upper quantile, and forgets what
is older. Two horizons are kept for TPOT: the window (blocks of tokens, so that the jitter of a single token
does not count for a whole answer), and a fast average that follows a slow-down within a few tokens. The larger
of the two is the answer: planning must not wait for statistics while a deadline nears.

Nothing is assumed before the first tokens: `known` is False, and whoever plans has to do so without numbers
(`elastic_agent.scheduler.timing` then spends at most half of the time on thinking).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speed:
    """What an endpoint takes, in seconds.

    Attributes:
        ttft: upper quantile of the time to a pass's first token.
        tpot: upper quantile of the time per token, or the present pace where that is slower.
        typical: the median time per token of the window.
    """

    ttft: float
    tpot: float
    typical: float

    def answer(self, tokens: int, passes: int = 1) -> float:
        """Seconds for so many tokens in so many passes."""
        return passes * self.ttft + tokens * self.tpot


class Latency:
    """TTFT and TPOT of one endpoint.

    Args:
        quantile: which upper quantile counts.
        window: passes (for TTFT) and blocks of `block` tokens (for TPOT) that are remembered.
        block: tokens that are averaged into one sample.
        weight: share of the newest token in the fast average; 0.3 follows 90% of a change in 7 tokens.
    """

    def __init__(
        self, *, quantile: float = 0.9, window: int = 64, block: int = 8, weight: float = 0.3
    ) -> None:
        self._quantile = quantile
        self._ttft: deque[float] = deque(maxlen=window)
        self._blocks: deque[float] = deque(maxlen=window)
        self._block = block
        self._weight = weight
        self._sum = 0.0
        self._count = 0
        self._pace: float | None = None
        self._upper: tuple[float, float, float] | None = None
        self._lock = threading.Lock()  # calls of several event loops may share an endpoint

    @property
    def known(self) -> bool:
        """Both have been seen."""
        return self._pace is not None and bool(self._ttft)

    def first(self, seconds: float) -> None:
        """A pass brought its first token after this long."""
        with self._lock:
            self._ttft.append(max(0.0, seconds))
            self._upper = None

    def tokens(self, count: int, seconds: float) -> None:
        """`count` further tokens of one pass took this long."""
        if count < 1:
            return
        with self._lock:
            each = max(0.0, seconds) / count
            keep = (1 - self._weight) ** count
            self._pace = each if self._pace is None else keep * self._pace + (1 - keep) * each
            self._sum += seconds
            self._count += count
            if self._count >= self._block:
                self._blocks.append(self._sum / self._count)
                self._sum, self._count = 0.0, 0
                self._upper = None

    def speed(self) -> Speed | None:
        """What to plan with, or None before anything is known."""
        with self._lock:
            if self._pace is None or not self._ttft:
                return None
            if self._upper is None:
                blocks = self._blocks or [self._pace]
                self._upper = (
                    _quantile(self._ttft, self._quantile),
                    _quantile(blocks, self._quantile),
                    _quantile(blocks, 0.5),
                )
            ttft, upper, typical = self._upper
            return Speed(ttft, max(upper, self._pace), typical)


def _quantile(values: deque[float] | list[float], q: float) -> float:
    """The smallest value that at least a share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
