"""What time it is in a ledger: the clock's, at the pace of another clock that no one sets.

A ledger's time says when a lease ends and when a window begins. The date of a machine may jump (somebody sets
it, a server starts with a wrong one, a virtual machine goes on after a pause), and what a jump did can't be
undone: windows began, and their caps were granted. So a ledger's time follows the clock, but runs at most
`SLEW` faster or slower than time passes (`clocks.elapsed`). A clock that jumps ahead is not believed at once:
one that is put right within `BELIEVED` has changed nothing, one that stays ahead for longer is followed then
(the machine's other clock may have stood still with it). A clock that is `FAR` behind is an error: nothing is
held or sent until it is right, or the ledger has been told that it is (`Store.set_time`).

How much time has passed is what a process knows itself, since it last heard the ledger's time; and the ledger
keeps, beside the latest time, which machine wrote it when (`Mark`), for processes that start later on the
same machine. A process that starts on another one takes its own date for a witness: a server's clock is
followed at most `FAR` past it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from elastic_agent.errors import StoreClockError, StoreForgotError

from .. import clocks

log = logging.getLogger(__name__)

SLEW = 0.05
"""See the module. A lease is relied on for so much less (`leases.MARGIN`)."""
FAR = 300.0
"""Seconds that a clock may be behind a ledger, and a server's clock ahead of a process that meets it."""
BELIEVED = 3600.0
"""Seconds after which a clock that went ahead is followed."""
AHEAD = 1.0
"""Seconds that a clock has to be ahead to be one that went ahead."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The latest time that a ledger has seen, as it keeps it.

    Attributes:
        boot, ticks: the machine's run (`clocks.boot`) and moment (`clocks.elapsed`) in which it was written.
        ahead: the moment since which the clock has been ahead; None: it is not.
    """

    latest: float = 0.0
    boot: str = ""
    ticks: float = 0.0
    ahead: float | None = None


class LedgerTime:
    """The time of one ledger, as one handle on it follows it. No IO.

    Args:
        clock: seconds since the epoch, of this machine.
        elapsed: seconds that have passed, of this machine.
        server: the ledger has a clock of its own, which is not this machine's.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] | None = None,
        *,
        server: bool = False,
    ) -> None:
        self.clock, self._elapsed, self._server = clock, elapsed, server
        self.ahead: float | None = None
        self._seen: tuple[float, float] | None = None  # the ledger's time, when it was asked for by `elapsed`
        self._said = False

    @property
    def ticks(self) -> float:
        """Seconds that have passed on this machine."""
        return clocks.elapsed() if self._elapsed is None else self._elapsed()

    def found(self, mark: Mark) -> None:
        """What the ledger keeps, when it is first met, and at each step of one without a server."""
        if mark.boot and mark.boot == clocks.boot():
            self._seen, self.ahead = (mark.latest, mark.ticks), mark.ahead

    def bounds(self) -> tuple[float, float]:
        """The earliest and the latest that it can be in the ledger at this moment."""
        ticks = self.ticks
        if self._seen is None:
            return 0.0, self.clock() + FAR if self._server else math.inf
        seen, at = self._seen
        passed = max(0.0, ticks - at)
        if self.ahead is not None and not 0 <= ticks - self.ahead < BELIEVED:
            return seen, math.inf
        return seen + (1 - SLEW) * passed, seen + (1 + SLEW) * passed

    def heard(self, now: float, clock: float, asked: float) -> None:
        """The ledger's time, and its clock, when a step was done.

        Args:
            asked: when it was asked for, by `ticks`.
        """
        self._seen = (now, asked)
        if clock - now <= AHEAD:
            self.ahead = None
        elif self.ahead is None:
            self.ahead = asked
        if clock - now <= FAR:
            self._said = False
        elif not self._said:
            self._said = True
            log.error(
                "the ledger's clock has gone ahead by %.0f s, to %s: leases and windows go on at the usual "
                "pace, and follow it if it stays there for %.0f s; set the clock right if it is wrong",
                clock - now,
                date(clock),
                BELIEVED,
            )

    def set(self) -> None:
        """The clock was said to be right: follow it from here on."""
        self._seen = self.ahead = None

    def now(self, mark: Mark) -> float:
        """The time of a step on a ledger that has no other clock than this machine's.

        Raises:
            StoreClockError: the clock is far behind the ledger.
        """
        self.found(mark)
        (earliest, furthest), clock, asked = self.bounds(), self.clock(), self.ticks
        if max(mark.latest, earliest) - clock > FAR:
            raise behind(max(mark.latest, earliest), clock)
        now = max(mark.latest, earliest, min(clock, furthest))
        self.heard(now, clock, asked)
        return now


def behind(latest: float, clock: float) -> StoreClockError:
    """The error for a clock that is far behind its ledger."""
    return StoreClockError(
        f"the clock says {date(clock)}, and the ledger has seen {date(latest)} already: one of them is "
        f"wrong, and nothing is held until it is put right. Set the clock; if it is right, the ledger was "
        f"written under a wrong one: tell it once with `await store.set_time()`"
    )


def forgot(where: str) -> StoreForgotError:
    """The error for a ledger that is not the one that was there before."""
    return StoreForgotError(
        f"{where} is not the ledger that this process has used before: it was emptied or replaced, so what "
        f"was charged there is forgotten, and nothing more is held. Bring the old one back; if its charges "
        f"may be forgotten, start the process anew"
    )


def date(moment: float) -> str:
    """A moment for people."""
    try:
        return datetime.fromtimestamp(moment, UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return f"{moment:.0f} s"
