"""Ends of holds on their way to the store. A settled call does not wait for its end to be written.

An end goes to the store with the next hold. A hold whose end could not be written before its lease ends is
charged whole, so the store never says less than the meter.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from elastic_agent.errors import StoreError, StoreForgotError, UnknownHoldError

from ..accounts import Hold, HoldState
from ..amounts import NOTHING
from ..stores.protocol import StoredHold
from .acknowledged import Acknowledged
from .leases import Leases
from .own_holds import OwnHolds
from .store_link import StoreLink

log = logging.getLogger(__name__)


class WriteBehind:
    """Writes the ends of one process's holds."""

    def __init__(self, link: StoreLink, holds: OwnHolds, leases: Leases, acknowledged: Acknowledged) -> None:
        self._link, self._holds, self._leases, self._acknowledged = link, holds, leases, acknowledged

    def end(self, hold: Hold) -> None:
        """Send the end that a hold had in memory to the store. From any thread."""
        key = self._holds.key(hold)
        if self._link.shut or not self._holds.begin_end(key):
            return
        if self._holds.is_unheld(key):
            self._link.soon(self._finish(hold))
            return
        charged = None if hold.state is HoldState.REFUNDED else hold.charged
        sent = self._acknowledged.sent
        self._link.store.end_soon(key, charged, lambda answer: self._answered(hold, answer, sent))

    def forget(self, key: str) -> None:
        """Refund a hold that may have been taken, of a call that was not sent."""
        self._link.soon(self._forget(key))

    async def _forget(self, key: str) -> None:
        with suppress(StoreError):
            await self._link.write(lambda: self._link.store.refund(key))

    def _answered(self, hold: Hold, answer: StoredHold | BaseException, sent: int) -> None:
        """The store's answer to an end, or an error. On one of the store's threads."""
        if isinstance(answer, BaseException):
            self._link.soon(self._finish(hold))
            return
        if answer.state is HoldState.SETTLED:
            self._acknowledged.charged(answer.charged, sent)
        self._ended(hold)

    async def _finish(self, hold: Hold) -> None:
        """Write an end whose first try failed, or whose call was sent without a hold."""
        key, link = self._holds.key(hold), self._link
        store, write = link.store, link.write
        if self._holds.is_unheld(key):  # an empty hold carries the charge
            self._holds.held_after_all(key)
            with suppress(StoreError):  # the first try took it after all
                await write(lambda: store.hold(key, link.name, NOTHING, lease=link.lease, dispatched=True))
        try:
            if hold.state is HoldState.REFUNDED:
                await write(lambda: store.refund(key))
            else:
                await write(lambda: store.settle(key, hold.charged))
        except UnknownHoldError as error:
            self._link.alarm(StoreForgotError(f"{error}. This process has taken the hold: the store forgot"))
        except StoreForgotError as error:
            self._link.alarm(error)
        except StoreError as error:
            log.error("the store does not take the end of call %s: %s", key, error)
        self._ended(hold)

    def _ended(self, hold: Hold) -> None:
        key = self._holds.key(hold)
        self._holds.ended(key, hold.charged)
        self._leases.ended(key)
