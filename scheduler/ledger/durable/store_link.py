"""The way to the store: one thread with one event loop, which runs steps and repeats them.

Mostly a call's hold is one step, on the call's own event loop. Everything else (reserves, final answers, a
store that can't be reached, looking up what is left) runs on one thread, which all durable ledgers of the
process share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from elastic_agent.errors import StoreError, StoreForgotError, StoreUnavailableError

from ..stores.protocol import Store
from .options import RETRY_AFTER
from .shared_loop import SharedLoop

THREAD = SharedLoop("ledger")
POLL = 0.002
"""Seconds between two looks at whether all steps are done."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class StoreLink:
    """Steps on one store, on the ledgers' thread.

    Args:
        store: the durable ledger's.
        name: the account that tasks are charged to, for messages.
        patience: seconds of retries for a step that a call waits for.
        lease: seconds; other steps are retried for twice as long.

    Attributes:
        forgot: the store knows less than it has acknowledged, so nothing more is held or sent.
        shut: no more steps are taken.
    """

    def __init__(self, store: Store, name: str, *, patience: float, lease: float) -> None:
        self.store, self.name, self.patience, self.lease = store, name, patience, lease
        self.forgot: StoreForgotError | None = None
        self.shut = False
        self._loop = THREAD.enter()
        self._background: set[asyncio.Task[None]] = set()

    async def there(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a step on the thread; when the caller is cancelled, the step goes on to its end.

        Raises:
            StoreError: the link is shut.
        """
        if self.shut:
            step.close()
            raise StoreError("the scheduler was closed, and its ledger with it: make a new one")
        return await asyncio.shield(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step, self._loop)))

    def blocking(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a step on the thread, and block until it is done."""
        return asyncio.run_coroutine_threadsafe(step, self._loop).result()

    def soon(self, step: Coroutine[Any, Any, None]) -> None:
        """Run a step on the thread without waiting for it. From any thread."""

        def start() -> None:
            task = asyncio.ensure_future(step)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

        if self.shut:  # the ends of leases do the rest
            step.close()
        else:
            self._loop.call_soon_threadsafe(start)

    @property
    def busy(self) -> bool:
        """Whether steps of `soon` run."""
        return bool(self._background)

    async def drain(self, more: Callable[[], bool]) -> None:
        """Wait until no step runs and `more` says that none will follow, then shut."""
        while self.busy or more():
            await asyncio.wait([*self._background, asyncio.ensure_future(asyncio.sleep(POLL))])
        self.shut = True

    async def leave(self) -> None:
        """Let go of the thread."""
        await asyncio.to_thread(THREAD.leave, self._loop)

    def alarm(self, error: StoreForgotError) -> None:
        """Stop all holds and calls of this process, since the store forgot."""
        if self.forgot is None:
            self.forgot = error
            log.critical("the ledger's store forgot, and calls on account %s stop: %s", self.name, error)

    async def patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step that a call waits for, and repeat it while the store can't be reached.

        Raises:
            StoreUnavailableError: the store could not be reached for `patience` seconds.
        """
        try:
            return await self._retry(step, self.patience)
        except StoreUnavailableError as error:
            raise StoreUnavailableError(
                f"the ledger's store could not be reached for {self.patience:g} s, and no call leaves "
                f"without a hold there: {error}"
            ) from error

    async def write(self, step: Callable[[], Awaitable[object]]) -> None:
        """Run a step that has to happen, and repeat it; after two leases, their ends have done its work."""
        try:
            await self._retry(step, 2 * self.lease)
        except StoreUnavailableError as error:
            log.error("the ledger's store was away for too long; its leases end the holds: %s", error)

    async def _retry(self, step: Callable[[], Awaitable[T]], seconds: float) -> T:
        until = self._loop.time() + seconds
        while True:
            try:
                return await step()
            except StoreUnavailableError:
                if self._loop.time() > until:
                    raise
                await asyncio.sleep(RETRY_AFTER)
