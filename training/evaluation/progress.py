"""How far a run is, and how long it will take: one line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Counts samples; time left comes from the rate of this run alone.

    Args:
        total: samples in all.
        there: samples that were there already.
        out: where to write; a terminal gets one line that changes, anything else a line now and then.
        clock: seconds.
        every: seconds between two lines that are not on a terminal.
    """

    def __init__(
        self,
        total: int,
        there: int = 0,
        *,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = 20.0,
    ) -> None:
        self.total, self.there, self.drawn, self.right = total, there, 0, 0
        self._out = out or sys.stderr
        self._clock = clock
        self._begun = self._shown = clock()
        self._live = self._out.isatty()
        self._every = 0.2 if self._live else every

    def one(self, right: bool) -> None:
        """One more sample is done."""
        self.drawn += 1
        self.right += right
        now = self._clock()
        if now - self._shown >= self._every or self.there + self.drawn == self.total:
            self._shown = now
            self._write(self.line())

    def line(self) -> str:
        done = self.there + self.drawn
        passed = self._clock() - self._begun
        left = passed / self.drawn * (self.total - done) if self.drawn else 0.0
        shown = f"{done} of {self.total} samples, {100 * done / max(1, self.total):.0f}%"
        return f"{shown}, {self.right} of {self.drawn} drawn here right, {minutes(left)} left"

    def end(self) -> None:
        """Leave the line standing."""
        if self._live and self.drawn:
            self._out.write("\n")
            self._out.flush()

    def _write(self, line: str) -> None:
        self._out.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
        self._out.flush()


def minutes(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    return f"{round(whole / 60)} min" if whole < 5400 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
