"""What one process holds in the store, as far as it knows, and what it was charged there."""

from __future__ import annotations

import threading
from collections.abc import Collection
from uuid import uuid4

from ..accounts import Hold
from ..amounts import NOTHING, Amount


class OwnHolds:
    """The holds of one process, by their keys in the store. No IO. From any thread."""

    def __init__(self) -> None:
        self._maker = uuid4().hex[:12]
        self._guard = threading.Lock()
        self._live: dict[str, Amount] = {}
        self._ending: set[str] = set()
        self._unheld: set[str] = set()
        self._charged = NOTHING

    def key(self, hold: Hold) -> str:
        """The key in the store of a call's hold."""
        return f"{self._maker}-{hold.id}"

    def reserve_key(self, task: str) -> str:
        """A new key for a task's reserve."""
        return f"{self._maker}-{task[-80:]}-reserve-{uuid4().hex[:8]}"

    def taken(self, key: str, amount: Amount, *, instead_of: str | None = None) -> None:
        """The store has taken a hold, perhaps instead of another one."""
        with self._guard:
            if instead_of is not None:
                self._live.pop(instead_of, None)
            self._live[key] = amount

    def sent_without(self, key: str) -> None:
        """A call is sent although the store could not be asked for its hold."""
        with self._guard:
            self._unheld.add(key)

    def is_unheld(self, key: str) -> bool:
        """Whether the hold's call was sent without it, and the store does not have it yet."""
        return key in self._unheld

    def held_after_all(self, key: str) -> None:
        """A hold that its call was sent without is on its way to the store."""
        with self._guard:
            self._unheld.remove(key)

    def begin_end(self, key: str) -> bool:
        """Mark the end of a hold as on its way; False: it is already, or the hold was never taken."""
        with self._guard:
            if key not in self._live or key in self._ending:
                return False
            self._ending.add(key)
            return True

    def ended(self, key: str, charged: Amount = NOTHING) -> None:
        """A hold is over, at this charge."""
        with self._guard:
            self._live.pop(key, None)
            self._ending.discard(key)
            self._charged += charged

    @property
    def ending(self) -> bool:
        """Whether the end of any hold is on its way."""
        return bool(self._ending)

    @property
    def live(self) -> dict[str, Amount]:
        """A copy of all live holds, by key."""
        with self._guard:
            return dict(self._live)

    def total(self) -> Amount:
        """The sum of all live holds and all charges."""
        with self._guard:
            return sum(self._live.values(), self._charged)

    def certain(self) -> dict[str, Amount]:
        """The live holds that the store has beyond doubt, unless their leases have run out."""
        with self._guard:
            unsure = self._ending | self._unheld
            return {key: amount for key, amount in self._live.items() if key not in unsure}

    def lost(self, ended: Collection[str]) -> set[str]:
        """The holds among these, whose leases have ended, that should have lived."""
        with self._guard:
            return (set(ended) & self._live.keys()) - self._ending - self._unheld
