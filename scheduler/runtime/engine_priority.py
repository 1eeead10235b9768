"""How urgent a call is to an engine that serves many at once: the priority that goes with it, lower first.

An engine that chooses (vLLM under `--scheduling-policy=priority`) takes waiting requests by this number, and
puts back the request with the highest number when its cache is full. The engine serves many tasks and
processes that know nothing of each other, so the number is a moment that all of them understand: the
millisecond of Unix time by which the call's thinking has to be over for its task to be in time
(`Timing.think_until`, by which an `Endpoint` orders its queue, too), or `PATIENCE` seconds after the call
arrived where there is no deadline. A call with twice the weight counts as if it had half of that time. All
passes of a call have the same number, so its solution goes before calls that came later and have as much
time.

A call's `priority=` outranks any moment.
"""

from __future__ import annotations

from ..ledger.amounts import INFINITY
from ..queueing.endpoint import PATIENCE

LONGEST = 86_400.0
"""Seconds; more time than that makes no difference."""
STEP = 10**13
"""Between two priorities of the user: more milliseconds than any moment has."""


def engine_priority(priority: int, weight: float, arrived: float, moment: float, wall: float) -> int:
    """The number of a call.

    Args:
        priority, weight: of the call.
        arrived: when the call was asked for, in seconds of the event loop's clock.
        moment: when its thinking has to be over, on the same clock; INFINITY: there is no deadline.
        wall: Unix time less that clock.
    """
    seconds = PATIENCE if moment == INFINITY else max(0.0, moment - arrived)
    return priority * STEP + round(1000 * (wall + arrived + min(seconds / weight, LONGEST)))
