"""Until when holds in a store surely live: what is asked right before anything is sent.

A process that is stopped (SIGSTOP, a suspended machine, a swap storm) does not renew its leases. Its holds
end, charged, perhaps in a window that is over by now; others spend what the new window has. So a process that
wakes up must send nothing on such a hold. It can't know from its own books: it knows when it last heard that
a hold lives, by a clock that ran while it slept (`clocks.elapsed`). Where more than the lease has passed
since, the store is asked once more, and has the last word.

What remains is the way from this check to the upstream, some microseconds of this process. A process that is
stopped in them sends what it had decided to send.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from elastic_agent.errors import LeaseLostError, StoreUnavailableError

from .. import clocks
from ..stores.protocol import Store

MARGIN = 0.05
"""Part of a lease that is not relied on: for the way to the upstream, and since the store's time may run so
much faster than ours while it follows a clock that was set (`stores.ledger_time`)."""
TRIES = 3
"""Times that the store is asked whether holds live, where each answer takes longer than the lease."""


class Leases:
    """The leases of one process's holds. From any thread.

    Args:
        store: where the holds are.
        seconds: of a lease.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store, self.seconds = store, seconds
        self._until: dict[str, float] = {}  # by `elapsed`; -infinity: the store said that it has ended

    def taken(self, key: str, asked: float, left: float) -> None:
        """A hold was taken.

        Args:
            asked: when the store was asked, by `elapsed`: its own clock can't have been earlier.
            left: seconds that its lease had left when the store answered.
        """
        self._until[key] = asked + (1 - MARGIN) * left

    def ended(self, key: str) -> None:
        """A hold is over."""
        self._until.pop(key, None)

    def knows(self, key: str) -> bool:
        """Whether it is a hold that was taken, and has not ended as far as is known here."""
        return self._until.get(key, -math.inf) > -math.inf

    def live(self, keys: Collection[str]) -> bool:
        """Whether all of them surely live at this moment."""
        now = clocks.elapsed()
        return all(self._until.get(key, -math.inf) > now for key in keys)

    async def renew(self, keys: Collection[str]) -> set[str]:
        """Renew these. Returns those that have ended, or that the store does not know.

        Raises:
            StoreUnavailableError: the store can't be reached; nothing has changed here.
        """
        asked = clocks.elapsed()
        lost = await self._store.renew(keys, self.seconds)
        for key in keys:
            if key in self._until:  # else it has ended meanwhile
                self._until[key] = -math.inf if key in lost else asked + (1 - MARGIN) * self.seconds
        return lost

    async def assure(self, keys: Collection[str], what: str) -> None:
        """Return if all of these live: then a request may leave. Mostly without asking the store.

        Args:
            what: whose they are, for the error.

        Raises:
            LeaseLostError: one has ended.
            StoreUnavailableError: the store, which alone could tell, can't be reached.
        """
        for _ in range(TRIES):
            if self.live(keys):
                return
            if any(self._until.get(key, -math.inf) == -math.inf for key in keys):
                break
            try:
                await self.renew(keys)
            except StoreUnavailableError as error:
                raise StoreUnavailableError(
                    f"{what}: its lease of {self.seconds:g} s has run out, and the ledger's store can't be "
                    f"asked whether it still holds what it needs: nothing more was sent. {error}"
                ) from error
        raise LeaseLostError(
            f"{what}: what it held in the ledger's store was not renewed for its lease of {self.seconds:g} s "
            f"(the process was stopped, its machine slept, or the store could not be reached), so the hold "
            f"has ended: nothing more was sent. Make the call again; a longer lease= outlasts longer pauses"
        )
