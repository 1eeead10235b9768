"""Until when holds in a store surely live: checked right before each request is sent.

A process that is stopped (SIGSTOP, a suspended machine, a swap storm) does not renew its leases. Its holds
end, charged, perhaps in a window that is over by now; others spend what the new window has. So a process that
wakes up must send nothing on such a hold. It knows when the store last confirmed the hold, by a clock that
ran while the process slept (`clocks.elapsed`). If more than the lease has passed since then, the store is
asked once more, and has the last word.

One gap remains: the microseconds between this check and the upstream. A process that is stopped there sends
its request when it wakes up.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from elastic_agent.errors import LeaseLostError, StoreUnavailableError

from .. import clocks
from ..stores.protocol import Store

MARGIN = 0.05
"""Part of a lease that does not count: for the way to the upstream, and since the store's time may run by
`stores.ledger_time.SLEW` faster than ours while it follows a clock that was set."""
TRIES = 3
"""How often the store is asked whether holds live, if each answer takes longer than the lease."""


class Leases:
    """The leases of one process's holds. From any thread.

    Args:
        store: where the holds are.
        seconds: of a lease.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store, self.seconds = store, seconds
        self._until: dict[str, float] = {}  # by `elapsed`; -infinity: the hold has ended

    def taken(self, key: str, asked: float, left: float) -> None:
        """A hold was taken.

        Args:
            asked: when the store was asked, by `elapsed`: the lease can't have begun earlier.
            left: seconds that the lease had left when the store answered.
        """
        self._until[key] = asked + (1 - MARGIN) * left

    def ended(self, key: str) -> None:
        """A hold is over."""
        self._until.pop(key, None)

    def knows(self, key: str) -> bool:
        """Whether the hold was taken and, as far as this process knows, has not ended."""
        return self._until.get(key, -math.inf) > -math.inf

    def live(self, keys: Collection[str]) -> bool:
        """Whether all these holds surely live at this moment."""
        now = clocks.elapsed()
        return all(self._until.get(key, -math.inf) > now for key in keys)

    async def renew(self, keys: Collection[str]) -> set[str]:
        """Renew these holds. Returns the keys of holds that have ended or that the store does not know.

        Raises:
            StoreUnavailableError: the store can't be reached; nothing has changed here.
        """
        asked = clocks.elapsed()
        lost = await self._store.renew(keys, self.seconds)
        for key in keys:
            if key in self._until:  # otherwise the hold has ended meanwhile
                self._until[key] = -math.inf if key in lost else asked + (1 - MARGIN) * self.seconds
        return lost

    async def assure(self, keys: Collection[str], what: str) -> None:
        """Return if all these holds live: then a request may leave. Mostly without asking the store.

        Args:
            what: the call of these holds, for the error.

        Raises:
            LeaseLostError: a hold has ended.
            StoreUnavailableError: the store has to be asked, and can't be reached.
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
                    f"asked whether its hold still lives: nothing more was sent. {error}"
                ) from error
        raise LeaseLostError(
            f"{what}: its hold in the ledger's store was not renewed for a lease of {self.seconds:g} s (the "
            f"process was stopped, its machine slept, or the store could not be reached), so the hold has "
            f"ended: nothing more was sent. Make the call again; a longer lease= outlasts longer pauses"
        )
