"""How a process uses a durable ledger: how long leases and tries last, and the accounts that tasks charge."""

from __future__ import annotations

from typing import Literal, get_args

from elastic_agent.budget import Caps
from elastic_agent.errors import InvalidValueError
from elastic_agent.validation import one_of, shown

from ..stores.protocol import Spec, Window

LEASE = 60.0
"""Seconds for which a hold outlives a process that has gone silent."""
PATIENCE = 10.0
"""Seconds for which a store that can't be reached is asked again before a call is refused."""
RETRY_AFTER = 0.25
"""Seconds between two such tries."""
TRAVEL_TIME = 0.1
"""Seconds that a hold may take to reach the store: so long before its account ends a call is over."""

Failure = Literal["closed", "open"]
"""What happens to a call while the store can't be reached: refused, or sent and written down afterwards."""


def account(name: str, caps: Caps | None = None, *, window: Window | None = None) -> Spec:
    """One of `BudgetScheduler`'s `accounts=`, in dollars.

    Args:
        name: unique in the store; "acme/alice" is a name like any other.
        caps: what everything charged to it may cost together; None: whatever the accounts above allow.
        window: the caps are for each UTC day or month; None: for its lifetime. For both: two accounts.

    Raises:
        InvalidValueError: no name, or a window that is neither "day" nor "month".
    """
    if type(name) is not str or not name:
        raise InvalidValueError(f"an account needs a name, like 'acme/alice', not {shown(name)}")
    if window is not None:
        one_of("window", window, get_args(Window))
    if caps is None:
        return Spec(name, window=window)
    return Spec(name, caps.tokens, caps.nanodollars, caps.seconds, window)
