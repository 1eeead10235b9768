"""The way to the store: one thread with one event loop, which asks, asks again, and remembers the worst.

Mostly a call's hold is one step, asked of the store from wherever the call runs. All that is not so simple
(reserves, final answers, a store that is away, looking up what is left) runs on one thread, which every
durable ledger of the process shares.
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
"""Seconds between two looks at whether everything is written."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class StoreLink:
    """Steps on one store, on the ledgers' thread.

    Args:
        store: the durable ledger's.
        name: the account that tasks are charged to, for messages.
        patience: seconds for which a step that a call waits for is tried.
        lease: seconds; a step that nobody waits for is tried for twice as long.

    Attributes:
        forgot: the store knows less than it has acknowledged: nothing more is held or sent.
        shut: nothing more is asked.
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
        """Run a step on the thread, for whom nobody waits. From any thread."""

        def start() -> None:
            task = asyncio.ensure_future(step)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

        if self.shut:  # leases end what is left
            step.close()
        else:
            self._loop.call_soon_threadsafe(start)

    @property
    def busy(self) -> bool:
        """Whether steps run for which nobody waits."""
        return bool(self._background)

    async def drain(self, more: Callable[[], bool]) -> None:
        """Wait until no step runs and there is no `more` on its way, then shut."""
        while self.busy or more():
            await asyncio.wait([*self._background, asyncio.ensure_future(asyncio.sleep(POLL))])
        self.shut = True

    async def leave(self) -> None:
        """Let go of the thread."""
        await asyncio.to_thread(THREAD.leave, self._loop)

    def alarm(self, error: StoreForgotError) -> None:
        """Stop all holds and calls of this process: the store forgot."""
        if self.forgot is None:
            self.forgot = error
            log.critical("the ledger's store forgot, and calls on account %s stop: %s", self.name, error)

    async def patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step that a call waits for, again and again while the store can't be reached.

        Raises:
            StoreUnavailableError: the patience is over.
        """
        try:
            return await self._retry(step, self.patience)
        except StoreUnavailableError as error:
            raise StoreUnavailableError(
                f"the ledger's store can't be reached since {self.patience:g} s, and no call leaves without "
                f"a hold there: {error}"
            ) from error

    async def write(self, step: Callable[[], Awaitable[object]]) -> None:
        """Run a step that has to happen, as often as it takes; after two leases it is left to their end."""
        try:
            await self._retry(step, 2 * self.lease)
        except StoreUnavailableError as error:
            log.error("the ledger's store was away for too long; leases end what is held: %s", error)

    async def _retry(self, step: Callable[[], Awaitable[T]], seconds: float) -> T:
        until = self._loop.time() + seconds
        while True:
            try:
                return await step()
            except StoreUnavailableError:
                if self._loop.time() > until:
                    raise
                await asyncio.sleep(RETRY_AFTER)
