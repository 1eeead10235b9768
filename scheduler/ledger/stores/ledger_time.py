"""What time it is in a ledger: the clock's, at the pace of another clock that no person sets.

A ledger's time says when a lease ends and when a window begins. The date of a machine may jump (somebody sets
it, a server starts with a wrong one, a virtual machine goes on after a pause), and the effect of a jump can't
be undone: windows began, and their caps were granted. So a ledger's time follows the clock, but runs at most
`SLEW` faster or slower than time passes (`clocks.elapsed`). A clock that jumps ahead is not believed at once:
if it is put right within `BELIEVED`, nothing has changed; if it stays ahead for longer, the ledger follows
(the machine's other clock may have stood still with it). A clock that is `FAR` behind is an error: nothing is
held or sent until the clock is right, or `Store.set_time` says that it is.

A process itself knows how much time has passed since its last step on the ledger. For processes that start
later on the same machine, the ledger keeps which machine wrote the latest time, and when (`Mark`). A process
that starts on another machine takes its own date for a witness: it follows a server's clock at most `FAR`
past that date.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from elastic_agent.errors import StoreClockError

from .. import clocks

log = logging.getLogger(__name__)

SLEW = 0.05
"""See the module. `leases.MARGIN` shortens leases by as much."""
FAR = 300.0
"""Seconds that a clock may be behind a ledger, and a server's clock ahead of a process that starts."""
BELIEVED = 3600.0
"""Seconds after which the ledger follows a clock that is ahead."""
AHEAD = 1.0
"""Seconds from which a clock counts as ahead."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The latest time that a ledger has seen, as the ledger keeps it.

    Attributes:
        boot, ticks: the run of the machine (`clocks.boot`) and the moment (`clocks.elapsed`) of the writing.
        ahead: the moment since which the clock has been ahead; None: the clock is not ahead.
    """

    latest: float = 0.0
    boot: str = ""
    ticks: float = 0.0
    ahead: float | None = None


class LedgerTime:
    """The time of one ledger, as one handle follows it. No IO.

    Args:
        clock: seconds since the epoch, of this machine.
        elapsed: seconds that have passed, of this machine.
        server: the ledger's clock is its server's, not this machine's.
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
        self._seen: tuple[float, float] | None = None  # the ledger's time, and our `ticks` at the question
        self._warned = False

    @property
    def ticks(self) -> float:
        """Seconds that have passed on this machine."""
        return clocks.elapsed() if self._elapsed is None else self._elapsed()

    def found(self, mark: Mark) -> None:
        """Read the mark that the ledger keeps: at the first step, and at each step without a server."""
        if mark.boot and mark.boot == clocks.boot():
            self._seen, self.ahead = (mark.latest, mark.ticks), mark.ahead

    def bounds(self) -> tuple[float, float]:
        """The earliest and the latest time that the ledger can have at this moment."""
        ticks = self.ticks
        if self._seen is None:
            return 0.0, self.clock() + FAR if self._server else math.inf
        seen, at = self._seen
        passed = max(0.0, ticks - at)
        if self.ahead is not None and not 0 <= ticks - self.ahead < BELIEVED:
            return seen, math.inf
        return seen + (1 - SLEW) * passed, seen + (1 + SLEW) * passed

    def heard(self, now: float, clock: float, asked: float) -> None:
        """Note the ledger's time and its clock after a step.

        Args:
            asked: when the step was asked for, by `ticks`.
        """
        self._seen = (now, asked)
        if clock - now <= AHEAD:
            self.ahead = None
        elif self.ahead is None:
            self.ahead = asked
        if clock - now <= FAR:
            self._warned = False
        elif not self._warned:
            self._warned = True
            log.error(
                "the ledger's clock has gone ahead by %.0f s, to %s: leases and windows go on at the usual "
                "pace, and follow the clock if it stays ahead for %.0f s; set the clock if it is wrong",
                clock - now,
                date(clock),
                BELIEVED,
            )

    def set(self) -> None:
        """Follow the clock from here on: a person says that it is right."""
        self._seen = self.ahead = None

    def now(self, mark: Mark) -> float:
        """The time of a step on a ledger whose clock is this machine's.

        Raises:
            StoreClockError: the clock is far behind the ledger.
        """
        self.found(mark)
        (earliest, latest), clock, asked = self.bounds(), self.clock(), self.ticks
        if max(mark.latest, earliest) - clock > FAR:
            raise clock_is_behind(max(mark.latest, earliest), clock)
        now = max(mark.latest, earliest, min(clock, latest))
        self.heard(now, clock, asked)
        return now


def clock_is_behind(latest: float, clock: float) -> StoreClockError:
    """The error for a clock that is far behind its ledger."""
    return StoreClockError(
        f"the clock says {date(clock)}, and the ledger has seen {date(latest)} already: one of them is "
        f"wrong, and nothing is held until it is put right. Set the clock; if the clock is right, the ledger "
        f"was written under a wrong clock: call `await store.set_time()` once"
    )


def date(moment: float) -> str:
    """A moment for people."""
    try:
        return datetime.fromtimestamp(moment, UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return f"{moment:.0f} s"
