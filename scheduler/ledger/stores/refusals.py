"""The errors for steps that a ledger refuses, in the same words for every store."""

from __future__ import annotations

from elastic_agent.errors import (
    StoreError,
    StoreForgotError,
    TaskClosedError,
    UnknownAccountError,
    UnknownHoldError,
)


def unknown_account(account: str) -> StoreError:
    return UnknownAccountError(f"no account {account!r} is in this store: open its path first")


def unknown_hold(key: str) -> StoreError:
    return UnknownHoldError(
        f"no hold {key!r} is in this store: it was never taken, or it ended before the store's retention"
    )


def key_in_use(key: str) -> StoreError:
    return StoreError(
        f"key {key!r} belongs to a hold with another account or amount: give each hold its own key"
    )


def not_replaceable(key: str) -> StoreError:
    return StoreError(f"hold {key!r} can't be replaced: it was dispatched, or belongs to another account")


def account_closed(account: str) -> TaskClosedError:
    return TaskClosedError(f"account {account!r} is closed: it takes no more holds")


def other_parent(account: str, has: str | None, asked: str | None) -> StoreError:
    return StoreError(f"account {account!r} exists under {has!r}, not under {asked!r}")


def ledger_replaced(where: str) -> StoreForgotError:
    """The ledger's number is not the number that this handle met first."""
    return StoreForgotError(
        f"{where} is not the ledger that this process has used before: the ledger was emptied or replaced, "
        f"its charges are forgotten, and nothing more is held. Bring the old ledger back; if its charges may "
        f"be forgotten, start the process anew"
    )
