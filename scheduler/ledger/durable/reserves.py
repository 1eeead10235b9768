"""Holds in the store for the final answers of tasks: one for each outermost task, never dispatched.

A reserve comes back when its task ends or its process dies. It is raised to the task's reserve in memory
before a call leaves, and lowered some time later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from elastic_agent.errors import StoreError

from ..accounts import Account
from ..amounts import NOTHING, Amount, Shortage
from .own_holds import OwnHolds
from .store_link import StoreLink


@dataclass(slots=True)
class Reserve:
    """What the store holds for a task's final answer."""

    key: str
    amount: Amount


class Reserves:
    """The reserves of one process, by the account of the outermost task."""

    def __init__(self, link: StoreLink, holds: OwnHolds) -> None:
        self._link, self._holds = link, holds
        self._reserves: dict[Account, Reserve] = {}
        self._changing: dict[Account, asyncio.Lock] = {}

    def get(self, task: Account) -> Reserve | None:
        """What the store holds for this task's final answer."""
        return self._reserves.get(task)

    def changing(self, task: Account) -> asyncio.Lock:
        """The lock for a change of a task's reserve: of two changes at once, one hold would be forgotten."""
        return self._changing.setdefault(task, asyncio.Lock())

    def is_exact(self, task: Account) -> bool:
        """Whether the store holds exactly the task's reserve in memory."""
        have = self._reserves.get(task)
        return task.closed or task.reserve == (have.amount if have else NOTHING)

    def is_covered(self, task: Account) -> bool:
        """Whether the store holds enough for the task's reserve, so that a call may leave. From any thread.

        A reserve that is far too large is lowered meanwhile.
        """
        wish, have = task.reserve, self._reserves.get(task)
        if have is None:
            return wish == NOTHING
        if 4 * wish.tokens < 3 * have.amount.tokens and not self.changing(task).locked():
            self._link.soon(self._lower(task))
        return wish.fits_in(have.amount)

    async def _lower(self, task: Account) -> None:
        with suppress(StoreError):  # the next call tries again
            await self.adjust(task)

    async def adjust(self, task: Account) -> Shortage | None:
        """Bring a task's reserve in the store to its amount in memory."""
        if self.is_exact(task):
            return None
        async with self.changing(task):
            return None if self.is_exact(task) else await self._change(task)

    async def _change(self, task: Account) -> Shortage | None:
        have, wish = self._reserves.get(task), task.reserve
        key, old = self._holds.reserve_key(task.id), have.key if have else None
        link = self._link
        got = await link.store.hold(key, link.name, wish, lease=link.lease, instead_of=old)
        if isinstance(got, Shortage):
            return got
        self._holds.taken(key, wish, instead_of=old)
        self._reserves[task] = Reserve(key, wish)
        if task.closed:  # meanwhile
            await self.give_back(task)
        return None

    def used(self, task: Account, reserve: Reserve) -> None:
        """The final answer's hold has taken the place of this reserve."""
        self._holds.ended(reserve.key)
        if self._reserves.get(task) is reserve:  # its task may have ended meanwhile
            del self._reserves[task]

    async def give_back(self, task: Account) -> None:
        """Refund the reserve of a task that has ended."""
        self._changing.pop(task, None)
        reserve = self._reserves.pop(task, None)
        if reserve is not None:
            await self._link.write(lambda: self._link.store.refund(reserve.key))
            self._holds.ended(reserve.key)

    async def give_all_back(self) -> None:
        """Refund all reserves."""
        for task in list(self._reserves):
            await self.give_back(task)

    def drop(self, lost: Collection[str]) -> set[str]:
        """Forget the reserves among these keys, whose leases ran out: the next call takes them anew."""
        dropped = {task: one.key for task, one in self._reserves.items() if one.key in lost}
        for task, key in dropped.items():
            del self._reserves[task]
            self._holds.ended(key)
        return set(dropped.values())
