"""How thinking is shared out among the calls of a task, and among tasks.

May import ledger, latency and estimates.

protocol   what a policy is: a pure function from a State to a Choice
marginal   the default: every token goes where it gains most
simple     a fixed cap, and even shares
pacing     a price for what all tasks of a pool share

`POLICIES` is the registry: a policy in it can be named in a configuration and replayed from a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .marginal import Marginal
from .protocol import AllocationPolicy
from .simple import FixedCap, Uniform

POLICIES: Mapping[str, Callable[..., AllocationPolicy]] = {
    "marginal": Marginal,
    "uniform": Uniform,
    "fixed": FixedCap,
}
"""Policies by the name that they give themselves; called with their fields."""
