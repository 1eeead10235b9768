"""What a key has spent, holds and has left, by its account on the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from elastic_agent.errors import UnknownAccountError
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores.protocol import Spec, Store, StoredAccount
from elastic_agent.scheduler.ledger.stores.transitions import window_end

from .owner import by_unit, left_of


async def read_spend(store: Store, spec: Spec) -> StoredAccount:
    """A key's account now; one that was never used has spent nothing."""
    try:
        return (await store.read_accounts(spec.id))[0]
    except UnknownAccountError:
        return StoredAccount(spec, Amount(), Amount(), None)


def spend_report(found: StoredAccount, now: float) -> dict[str, Any]:
    """Caps, spent, held and left by unit.

    Args:
        found: the account.
        now: epoch seconds, for the end of a window.

    Returns:
        `per` is "day", "month" or None (the caps are for the key's lifetime); `resets` says when the window
        ends, in UTC; `past` is what was spent in the windows before.
    """
    spec, left = found.spec, left_of(found)
    resets = None if spec.window is None else datetime.fromtimestamp(window_end(spec.window, now), UTC)
    return {
        "caps": by_unit(Amount(spec.tokens or 0, spec.nano or 0), None, spec),
        "per": spec.window,
        "resets": None if resets is None else resets.isoformat(),
        "spent": by_unit(found.spent),
        "held": by_unit(found.held),
        "left": by_unit(Amount(max(0, left.tokens), max(0, left.nano)), None, spec),
        "past": by_unit(found.past),
    }
