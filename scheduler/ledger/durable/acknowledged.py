"""The charges that a store has acknowledged: the store's accounts may never say less.

A store can forget: a server was put back to a backup, a replica without the last steps took over, a file was
replaced by a copy. Calls would then be granted what was spent already. What an account has spent only grows;
so the last look at an account, plus what this process has charged since, is the least that the next look can
say. And what this process holds there is either held or charged.

Each look at the accounts is checked against this. What the check can't notice: steps that were forgotten
before this process started, and charges or holds of others that fill the gap.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from elastic_agent.errors import StoreForgotError

from ..amounts import NOTHING, Amount
from ..stores.protocol import StoredAccount


class Acknowledged:
    """The least that the accounts of one path may say. No IO. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._least: dict[str, Amount] = {}
        self._looks = 0
        self._looking = 0

    # Charges

    @property
    def sent(self) -> int:
        """A mark of this moment, to pass to `charged` when the charge is acknowledged."""
        return -1 if self._looking else self._looks

    def charged(self, amount: Amount, sent: int) -> None:
        """Note a charge on the whole path that the store has acknowledged.

        A charge that was under way during a look may be part of the look already: it is not added.

        Args:
            sent: `sent` when the charge was sent.
        """
        with self._lock:
            if sent == self.sent and not self._looking:
                for name, least in self._least.items():
                    self._least[name] = least + amount

    # Looks

    def looking(self) -> None:
        """Note that a look begins: the store is about to be asked."""
        with self._lock:
            self._looking += 1

    def looked(self, accounts: Sequence[StoredAccount] | None, held: Collection[Amount] = ()) -> None:
        """Check and note what a look found; None: the store could not be asked.

        Args:
            held: what this process held there during the whole look.

        Raises:
            StoreForgotError: the accounts say less than was acknowledged.
        """
        with self._lock:
            self._looked(accounts or (), sum(held, NOTHING))

    def _looked(self, accounts: Sequence[StoredAccount], own: Amount) -> None:
        self._looking -= 1
        self._looks += 1
        for account in accounts:
            name, spent = account.spec.id, account.past + account.spent
            least = self._least.get(name, NOTHING)
            for what, known, said in (
                ("charged", least, spent),
                ("charged or held", least + own, spent + account.held),
            ):
                if not known.fits_in(said):
                    raise StoreForgotError(
                        f"account {name!r}: the store says that {_text(said)} are {what}, and has "
                        f"acknowledged {_text(known)}: it was put back to an older state, or replaced. "
                        f"Nothing more is held or sent; bring the last state back, then restart this process"
                    )
            self._least[name] = spent


def _text(amount: Amount) -> str:
    return f"{amount.tokens} tokens and {amount.nano} nano-dollars"
