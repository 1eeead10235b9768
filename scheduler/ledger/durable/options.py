"""The options of a durable ledger: how long leases and retries last, and the accounts that tasks charge."""

from __future__ import annotations

from typing import Literal, get_args

from elastic_agent.budget import Caps
from elastic_agent.errors import InvalidValueError
from elastic_agent.validation import one_of, shown

from ..stores.protocol import Spec, Window

LEASE = 60.0
"""Seconds for which a hold outlives a process that has gone silent."""
PATIENCE = 10.0
"""Seconds of retries, before a call is refused, while the store can't be reached."""
RETRY_AFTER = 0.25
"""Seconds between two retries."""
TRAVEL_TIME = 0.1
"""Seconds that a hold may take to reach the store: a call must end this long before its account does."""

Failure = Literal["closed", "open"]
"""A call while the store can't be reached: "closed" refuses it, "open" sends it and charges it later."""


def account(name: str, caps: Caps | None = None, *, window: Window | None = None) -> Spec:
    """One of `BudgetScheduler`'s `accounts=`, in dollars.

    Args:
        name: unique in the store; "acme/alice" is a name like any other.
        caps: what all calls charged to the account may cost together; None: only the accounts above limit it.
        window: the caps are for each UTC day or month; None: for the account's lifetime.

    Raises:
        InvalidValueError: the name is empty, or the window neither "day" nor "month".
    """
    if type(name) is not str or not name:
        raise InvalidValueError(f"an account needs a name, like 'acme/alice', not {shown(name)}")
    if window is not None:
        one_of("window", window, get_args(Window))
    if caps is None:
        return Spec(name, window=window)
    return Spec(name, caps.tokens, caps.nanodollars, caps.seconds, window)
