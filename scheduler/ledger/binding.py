"""The account that binds: the account whose cap refused a call.

A refusal names this account, not the task of the call: a call of a sub-task may fail on the cap of the task
around it, and any call on the cap of a key, a thread or a month.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import islice

from elastic_agent.errors import Binding

from .accounts import Account
from .amounts import INFINITY, Amount


def binding(path: Sequence[Account], tasks: Container[str], unit: str, now: float) -> Binding | None:
    """The account with the least left of a unit, the outermost of equals; None: no account caps the unit.

    Args:
        path: accounts, from the leaf up.
        tasks: ids of the accounts that are tasks; the other accounts belong to a store.
        unit: the unit that is short: "tokens", "usd" or "seconds".
    """
    unit = "nano" if unit == "usd" else unit
    found = [one for a in path if (one := _one(a, unit, a.id not in tasks, now)) is not None]
    return min(reversed(found), key=lambda one: one.left, default=None)


def _one(account: Account, unit: str, shared: bool, now: float) -> Binding | None:
    if unit == "seconds":
        if account.deadline == INFINITY or account.seconds is None:
            return None
        return Binding(account.id, unit, account.seconds, now - account.opened, 0, shared=shared)
    cap = account.tokens if unit == "tokens" else account.nano
    if cap is None:
        return None

    def of(amount: Amount) -> int:
        return amount.tokens if unit == "tokens" else amount.nano

    keepers = (one.id for one in _below(account) if of(one.reserve))
    return Binding(
        account.id,
        unit,
        cap,
        of(account.spent),
        of(account.held),
        of(account.reserved),
        len({hold.call for hold in account.live.values()}),
        tuple(islice(keepers, Binding.NAMED + 1)),  # a task may have thousands of sub-tasks
        shared,
    )


def _below(account: Account) -> Iterable[Account]:
    yield account
    for child in account.children.values():
        yield from _below(child)
