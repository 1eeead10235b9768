"""What a store has acknowledged of some accounts: its books may never say less.

A store can forget: a server that was put back to a backup, a replica that took over before it had heard
everything, a file that was replaced by a copy. Calls would then be granted what was spent already. What was
spent on an account only grows, so who has seen it knows the least that the books can say; what this process
was told that it charged since is added to it, and what it holds there is either held or charged.

So each look at the books is held against that. What this can't notice: what was forgotten before a process
started, and what others have charged or held meanwhile in the same place.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from elastic_agent.errors import StoreForgotError

from ..amounts import NOTHING, Amount
from ..stores.protocol import Level


class Acknowledged:
    """What is known of the accounts of one path. No IO. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._least: dict[str, Amount] = {}
        self._looks = 0
        self._looking = 0

    # Charges

    @property
    def sent(self) -> int:
        """To keep from when a charge is sent to the store until it is told of: see `charged`."""
        return -1 if self._looking else self._looks

    def charged(self, amount: Amount, sent: int) -> None:
        """The store has taken a charge on the whole path.

        One that was under way while the books were looked at may be in them already: it is not counted here.
        """
        with self._lock:
            if sent == self.sent and not self._looking:
                for name, least in self._least.items():
                    self._least[name] = least + amount

    # Looks

    def looking(self) -> None:
        """The books are about to be asked for."""
        with self._lock:
            self._looking += 1

    def looked(self, levels: Sequence[Level] | None, held: Collection[Amount] = ()) -> None:
        """They were; None: they could not be.

        Args:
            held: what this process held there all the while.

        Raises:
            StoreForgotError: they say less than was acknowledged.
        """
        with self._lock:
            self._looked(levels or (), sum(held, NOTHING))

    def _looked(self, levels: Sequence[Level], own: Amount) -> None:
        self._looking -= 1
        self._looks += 1
        for level in levels:
            name, spent = level.spec.id, level.past + level.spent
            least = self._least.get(name, NOTHING)
            for what, known, said in (
                ("charged", least, spent),
                ("charged or held", least + own, spent + level.held),
            ):
                if not known.fits_in(said):
                    raise StoreForgotError(
                        f"account {name!r}: the store says that {_text(said)} are {what}, and has "
                        f"acknowledged {_text(known)}: it was put back to an older state, or replaced. "
                        f"Nothing more is held or sent; bring back what it knew, then start this process anew"
                    )
            self._least[name] = spent


def _text(amount: Amount) -> str:
    return f"{amount.tokens} tokens and {amount.nano} nano-dollars"
