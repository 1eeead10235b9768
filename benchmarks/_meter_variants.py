"""Three ledgers that are wrong on purpose, each the way that others do it. The meter has to catch them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from _meter_plan import LEASE

from elastic_agent.errors import TaskClosedError
from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount, Shortage
from elastic_agent.scheduler.ledger.stores.protocol import Store, StoredHold


class _Around:
    """A store as it is; variants change a step or two."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


class RefundOnExpiry(_Around):
    """A call whose lease ran out is taken for one that never left: nobody wrote down that it did."""

    async def hold(self, *args: Any, dispatched: bool = False, **kwargs: Any) -> StoredHold | Shortage:
        return await self.store.hold(*args, **kwargs)

    async def dispatch(self, key: str) -> bool:
        return not await self.store.renew([key], LEASE)


class ShrinkToHeadroom(_Around):
    """A hold that is too large becomes one that fits, and the call goes out as it was (LiteLLM)."""

    async def hold(self, key: str, account: str, amount: Amount, **kwargs: Any) -> StoredHold | Shortage:
        held = await self.store.hold(key, account, amount, **kwargs)
        while isinstance(held, Shortage) and held.available > 0:
            left = int(held.available)
            amount = amount.min(
                Amount(left, amount.nano) if held.unit == "tokens" else Amount(amount.tokens, left)
            )
            held = await self.store.hold(key, account, amount, **kwargs)
        return held


class SettleAfter(_Around):
    """No holds: look whether anything is left, call, and write down what it cost."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._accounts: dict[str, str] = {}

    async def hold(self, key: str, account: str, amount: Amount, **_: Any) -> StoredHold | Shortage:
        for level in await self.store.read_accounts(account):
            for unit, balance in level.balances().items():
                if balance.available <= 0:
                    return Shortage(level.spec.id, unit, 1, balance.available)
        self._accounts[key] = account
        return StoredHold(key, account, amount, left=LEASE)

    async def dispatch(self, key: str) -> bool:
        return True

    async def settle(self, key: str, actual: Amount) -> StoredHold:
        account = self._accounts[key]
        try:
            await self.store.hold(key, account, NOTHING, lease=LEASE, dispatched=True)
        except TaskClosedError:  # it never hears of it
            return StoredHold(key, account, NOTHING)
        return await self.store.settle(key, actual)

    async def refund(self, key: str) -> StoredHold:
        return StoredHold(key, self._accounts[key], NOTHING, HoldState.REFUNDED)

    async def renew(self, keys: Iterable[str], lease: float) -> set[str]:
        return set()


WRONG = {
    "settle-after": SettleAfter,
    "refund-on-expiry": RefundOnExpiry,
    "shrink-to-headroom": ShrinkToHeadroom,
}
BREAKS = {
    "settle-after": ("cap_violations", "ledger_below_meter"),
    "refund-on-expiry": ("ledger_below_meter",),
    "shrink-to-headroom": ("cap_violations",),
}
