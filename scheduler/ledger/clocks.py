"""The clock of this machine that only runs: a lease is measured in time that has passed.

The date may jump. So leases use a clock that no person sets, and that runs while the process is stopped
(SIGSTOP, a debugger) and while the machine sleeps.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

_RUNNING = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
"""Linux's boot clock runs while the machine sleeps, its monotonic clock does not; on other systems the
monotonic clock does."""


def elapsed() -> float:
    """Seconds since some fixed moment, including the time in which this process or its machine slept."""
    return time.monotonic() if _RUNNING is None else time.clock_gettime(_RUNNING)


@cache
def boot() -> str:
    """The id of this run of the machine; "" if there is none. Processes with one id read one `elapsed`."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
