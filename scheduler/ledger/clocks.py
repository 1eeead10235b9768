"""The clocks of this machine: one that tells the date and may jump, one that only runs.

A lease is about time that has passed, whatever the date is and whether or not this process ran meanwhile. So
it is measured by a clock that no one sets, and that runs while the process is stopped (SIGSTOP, a debugger)
and while the machine sleeps.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

_RUNNING = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""Linux's monotonic clock stands still while the machine sleeps, its boot clock does not; elsewhere the
monotonic clock runs on."""


def elapsed() -> float:
    """Seconds since some moment, those in which this process or its machine slept too."""
    return time.monotonic() if _RUNNING is None else time.clock_gettime(_RUNNING)


@cache
def boot() -> str:
    """Which run of the machine `elapsed` is about; "" where the system does not tell.

    Processes that read the same text here read the same `elapsed`, too.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
