"""A store made of steps: checks the arguments, and hands each step to where the steps run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from ..amounts import Amount, Shortage
from .checks import check_amount, check_caps, check_name, check_path, check_time
from .protocol import Spec, StoredAccount, StoredHold
from .transitions import Transitions

T = TypeVar("T")

SWEEP = 200
"""Holds that one step ends, forgets or renews at most: it bounds how long other steps wait."""

RETENTION = 2 * 86400.0
"""Seconds for which an ended hold with its key, and a closed account with its name, are kept."""


class BaseStore(ABC):
    """The `Store` protocol over the steps of `Transitions`; a store says where and how a step runs.

    Args:
        retention: seconds for which ended holds and closed accounts are kept, so that a repeated request gets
            the same answer.
    """

    name: str

    def __init__(self, retention: float) -> None:
        self._retention = float(retention)
        self.connections = 0

    @abstractmethod
    async def _run(self, step: Callable[..., T], *args: Any) -> T:
        """The answer of one step: all of the step has happened or nothing, durably."""

    @abstractmethod
    def _later(self, step: Callable[..., T], *args: Any) -> Future[T]:
        """The same for a `settle` or `refund` that no caller waits for."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of connections and threads."""

    async def open(self, path: Sequence[Spec]) -> None:
        check_path(path)
        await self._run(Transitions.open, list(path))

    async def set_caps(self, account: str, *, tokens: int | None, nano: int | None) -> None:
        check_name("account", account)
        check_caps(tokens, nano)
        await self._run(Transitions.set_caps, account, tokens, nano)

    async def hold(
        self,
        key: str,
        account: str,
        amount: Amount,
        *,
        lease: float,
        seconds: float = 0.0,
        dispatched: bool = False,
        instead_of: str | None = None,
    ) -> StoredHold | Shortage:
        check_name("key", key)
        check_name("account", account)
        check_amount(amount)
        times = check_time("lease", lease), check_time("seconds", seconds)
        if instead_of is not None:
            check_name("key", instead_of)
        return await self._run(Transitions.hold, key, account, amount, *times, dispatched, instead_of)

    async def dispatch(self, key: str) -> bool:
        check_name("key", key)
        return await self._run(Transitions.dispatch, key)

    async def settle(self, key: str, actual: Amount) -> StoredHold:
        check_name("key", key)
        check_amount(actual)
        return await self._run(Transitions.settle, key, actual)

    async def refund(self, key: str) -> StoredHold:
        check_name("key", key)
        return await self._run(Transitions.refund, key)

    def end_soon(
        self, key: str, actual: Amount | None, done: Callable[[StoredHold | BaseException], None]
    ) -> None:
        check_name("key", key)
        if actual is None:
            ending = self._later(Transitions.refund, key)
        else:
            check_amount(actual)
            ending = self._later(Transitions.settle, key, actual)
        ending.add_done_callback(lambda answer: done(answer.exception() or answer.result()))

    async def renew(self, keys: Iterable[str], lease: float) -> set[str]:
        wanted = sorted(set(keys))
        for key in wanted:
            check_name("key", key)
        lease, ended = check_time("lease", lease), set[str]()
        for first in range(0, len(wanted), SWEEP):
            ended |= await self._run(Transitions.renew, lease, wanted[first : first + SWEEP])
        return ended

    async def expire(self) -> list[StoredHold]:
        ended: list[StoredHold] = []
        while True:
            some = await self._run(Transitions.expire, SWEEP)
            ended += some
            if len(some) < SWEEP:
                break
        while await self._run(Transitions.forget, SWEEP, self._retention):
            pass
        return ended

    async def close(self, account: str) -> None:
        check_name("account", account)
        await self._run(Transitions.close, account)

    async def read_accounts(self, account: str) -> list[StoredAccount]:
        check_name("account", account)
        return await self._run(Transitions.read_accounts, account)

    async def holds(self, account: str | None = None) -> list[StoredHold]:
        if account is not None:
            check_name("account", account)
        return await self._run(Transitions.holds, account)

    async def live(self, account: str) -> list[StoredHold]:
        check_name("account", account)
        return await self._run(Transitions.live, account)

    async def set_time(self) -> None:
        await self._run(Transitions.set_time)

    async def check(self) -> None:
        await self._run(Transitions.check)
