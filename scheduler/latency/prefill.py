"""What a prompt's length adds to the time to the first token (TTFT): seconds per token that has to be read.

A TTFT has a fixed part and a time per prompt token. The slope comes from passes of different lengths: their
medians by length (each power of two is a group), in pairs of which the longer one is at least twice as long,
the median of all pairs' slopes weighted by their distance (Theil and Sen's estimator over groups). Single
stalls move no median. The slope counts only where it stands clear of the noise. Where all prompts are alike
there is no slope, and the fixed part is the whole TTFT.

The fixed part is a quantile of the TTFTs without their prompts' part; an upper quantile of the slope is what
the longer prompts needed beyond that. So a share q of the remembered passes took no longer than `ttft +
prefill * read`. Prompts longer than any seen are in proportion.

**Prefix caches.** Where the upstream reports how much of a prompt it had (`cached`), only the rest counts. A
further pass of a call sends again what the first pass sent, and few upstreams report that they had it. Such
passes don't teach the slope; `again` is the share of the prompt that they seem to have read. `later` is the
share that later calls of a task read, as an agent's conversation grows: an upper quantile, too, so that one
of ten calls with a prompt of its own makes all count as new.

Long prompts may be rare: the latest passes of each length are kept beside the window, and forgotten when they
are `OLD` passes old.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple, TypeVar

Number = TypeVar("Number", int, float)

FEW = 3
"""Passes of a length from which on their median counts, and further passes from which on `again` counts."""

KEPT, OLD = 16, 512

CLEAR = 8.0
"""The rise over the prompts seen must exceed so many times the median deviation over the root of the number
of passes: three standard errors, for roughly normal noise."""


@dataclass(slots=True, eq=False)
class First:
    """A pass's first token.

    Attributes:
        seconds: its TTFT.
        prompt: input tokens that the pass sent.
        further: the pass is not the first of its call.
        later: the call is not the first of its task.
        cached: how many of the input tokens the upstream had; None: not reported.
        baseline: the same with `seconds` divided by the slowdown; set during one.
    """

    seconds: float
    prompt: int = 0
    further: bool = False
    later: bool = False
    cached: int | None = None
    baseline: First | None = None

    @property
    def read(self) -> int | None:
        """Tokens that were read; None: unknown."""
        if self.cached is None:
            return None if self.further else self.prompt
        return max(0, self.prompt - self.cached)


class Line(NamedTuple):
    """TTFT as a function of the prompt, in seconds.

    Attributes:
        ttft: the fixed part.
        prefill: for each token that is read.
        again: share of the prompt that a further pass of the same call reads.
        later: share that a later call of the same task reads: below 1 only where the upstream reports it.
    """

    ttft: float
    prefill: float = 0.0
    again: float = 1.0
    later: float = 1.0


class FirstTokens:
    """The first tokens of one endpoint, or of one level of its load.

    Args:
        window: how many passes are remembered.
    """

    def __init__(self, window: int = 64) -> None:
        self.latest: deque[First] = deque(maxlen=window)
        self._by_length: dict[tuple[int, bool], deque[tuple[int, First]]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self.latest)

    def length(self, first: First, *, transient: bool = False) -> None:
        """Remember a pass among those of its length; during a slowdown only where few of these are known."""
        self._number += 1
        alike = self._by_length.setdefault((first.prompt.bit_length(), first.further), deque(maxlen=KEPT))
        if not transient or len(alike) < FEW:
            alike.append((self._number, first))

    def slope(self) -> float:
        """Seconds for one more token; 0 where that isn't clear."""
        if len(self._by_length) < 2:
            return 0.0
        known = self._known()
        groups: dict[int, list[tuple[int, float]]] = {}
        for read, seconds in known:
            groups.setdefault(read.bit_length(), []).append((read, seconds))
        middle = [
            (quantile_of([n for n, _ in group], 0.5), quantile_of([s for _, s in group], 0.5), len(group))
            for _, group in sorted(groups.items())
            if len(group) >= FEW
        ]
        pairs = [
            ((above[1] - below[1]) / (above[0] - below[0]), above[0] - below[0])
            for i, below in enumerate(middle)
            for above in middle[i + 1 :]
            if above[0] >= 2 * max(1, below[0])
        ]
        if not pairs:
            return 0.0
        slope = _weighted_median(pairs)
        rest = [seconds - slope * read for read, seconds in known]
        fixed = quantile_of(rest, 0.5)
        noise = quantile_of([abs(one - fixed) for one in rest], 0.5)
        count = min(middle[0][2], middle[-1][2])
        clear = slope * (middle[-1][0] - middle[0][0]) > CLEAR * noise / sqrt(count)
        return slope if clear else 0.0

    def line(self, slope: float, quantile: float) -> Line:
        """Quantiles of the fixed part, the slope, and the shares that are read again, for this slope."""
        if not slope:
            return Line(quantile_of([first.seconds for first in self.latest], quantile))
        shares, cached = self._shares(slope), self._later_shares()
        again = quantile_of(shares, quantile) if len(shares) >= FEW else 1.0
        later = quantile_of(cached, quantile) if len(cached) >= FEW else 1.0
        ttft = max(0.0, quantile_of(self.rest(slope), quantile))
        known = self._known()
        most = max([read for read, _ in known], default=0)
        each = [(seconds - ttft) / read for read, seconds in known if read and 2 * read >= most]
        return Line(ttft, max(slope, quantile_of(each, quantile)) if each else slope, again, later)

    def rest(self, slope: float) -> list[float]:
        """The TTFTs of the window without their prompts' part."""
        if not slope:
            return [first.seconds for first in self.latest]
        shares = self._shares(slope)
        usual = quantile_of(shares, 0.5) if len(shares) >= FEW else 1.0
        return [
            first.seconds - slope * (usual * first.prompt if first.read is None else first.read)
            for first in self.latest
        ]

    def _known(self) -> list[tuple[int, float]]:
        """(tokens read, TTFT) of the remembered passes of each length."""
        oldest = self._number - OLD
        return [
            (read, first.seconds)
            for alike in self._by_length.values()
            for number, first in alike
            if number > oldest and (read := first.read) is not None
        ]

    def _shares(self, slope: float) -> list[float]:
        """Shares of their prompts that further passes of the window read: as reported, or as they seem.

        Of the longer half: in short prompts the thinking in between counts for much.
        """
        again = [first for first in self.latest if first.further and first.prompt]
        if not again:
            return []
        usual = quantile_of([first.prompt for first in again], 0.5)
        known = [first.seconds - slope * first.read for first in self.latest if first.read is not None]
        fixed = max(0.0, quantile_of(known, 0.5)) if known else 0.0
        return [
            min(1.0, max(0.0, (first.seconds - fixed) / (slope * first.prompt)))
            if first.read is None
            else first.read / first.prompt
            for first in again
            if first.prompt >= usual
        ]

    def _later_shares(self) -> list[float]:
        """Shares of their prompts that later calls of a task read, of the longer half of these."""
        later = [first for first in self.latest if first.later and not first.further and first.prompt]
        if not later:
            return []
        usual = quantile_of([first.prompt for first in later], 0.5)
        return [(first.read or 0) / first.prompt for first in later if first.prompt >= usual]


def quantile_of(values: Sequence[Number], q: float) -> Number:
    """The smallest value that at least a share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def _weighted_median(pairs: Sequence[tuple[float, float]]) -> float:
    """The value (first of each pair) below which half of the weight (second) lies."""
    half, weight = sum(weight for _, weight in pairs) / 2, 0.0
    for value, more in sorted(pairs):
        weight += more
        if weight >= half:
            return value
    return 0.0
