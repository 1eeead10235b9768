"""A store made of steps: checks what it is asked for, and hands each step to where it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from ..amounts import Amount, Shortage
from .checks import check_amount, check_caps, check_name, check_path, check_time
from .protocol import Level, Spec, StoredHold
from .transitions import Transitions

P = ParamSpec("P")
T = TypeVar("T")

SWEEP = 200
"""Holds that one step of `expire` ends or forgets at most: others wait for it no longer than that takes."""

RETENTION = 2 * 86400.0
"""Seconds for which an ended hold, and with it its key, is kept, and a closed account with its name."""


class BaseStore(ABC):
    """The `Store` protocol over `Transitions`; a store says where and how a step runs.

    Args:
        retention: seconds for which ended holds and closed accounts are kept, so that a repeated request gets
            the same answer.
    """

    name: str

    def __init__(self, retention: float) -> None:
        self._retention = retention
        self.connections = 0

    @abstractmethod
    async def _run(
        self, step: Callable[Concatenate[Transitions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """One step, all of it or nothing, durable when this returns."""

    @abstractmethod
    def _later(
        self, step: Callable[Concatenate[Transitions, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """The same for one that nobody waits for."""

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
        check_time("lease", lease)
        check_time("seconds", seconds)
        if instead_of is not None:
            check_name("key", instead_of)
        return await self._run(Transitions.hold, key, account, amount, lease, seconds, dispatched, instead_of)

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

    def _read(self, answer: Any) -> StoredHold:
        """The hold that a step of `_later` came to."""
        return cast("StoredHold", answer)

    def end_soon(
        self, key: str, actual: Amount | None, done: Callable[[StoredHold | BaseException], None]
    ) -> None:
        check_name("key", key)
        if actual is None:
            ending = self._later(Transitions.refund, key)
        else:
            check_amount(actual)
            ending = self._later(Transitions.settle, key, actual)
        ending.add_done_callback(lambda answer: done(answer.exception() or self._read(answer.result())))

    async def renew(self, keys: Iterable[str], lease: float) -> set[str]:
        wanted = sorted(set(keys))
        for key in wanted:
            check_name("key", key)
        check_time("lease", lease)
        return await self._run(Transitions.renew, wanted, lease) if wanted else set()

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

    async def books(self, account: str) -> list[Level]:
        check_name("account", account)
        return await self._run(Transitions.books, account)

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
