"""The time by which calls and tasks go."""

from __future__ import annotations

import asyncio
import time


def loop_time() -> float:
    """The running event loop's time; without one, the clock that event loops go by."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
