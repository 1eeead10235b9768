"""A part of a task's caps that is held for something other than a call: see `Task.set_aside`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from elastic_agent.budget import to_usd
from elastic_agent.errors import CapExceededError

from ..dispatch.set_aside import set_aside, settle_part
from ..ledger.accounts import Hold
from ..ledger.amounts import NOTHING, Amount, Shortage

if TYPE_CHECKING:
    from .task_account import TaskAccount


class SetAside:
    """A part of a task's caps, held until `settle`; it is charged whole when the task ends before.

    Attributes:
        amount: the tokens and nano-dollars that are held.
    """

    def __init__(self, task: TaskAccount, hold: Hold) -> None:
        self._task, self._hold, self.amount = task, hold, hold.amount

    def settle(self, spent: Amount) -> None:
        """Charge the task what was spent; the rest comes back."""
        now = asyncio.get_running_loop().time()
        settle_part(self._task.dispatcher, self._task.state, self._hold, spent, now)


async def hold_part(task: TaskAccount, amount: Amount) -> SetAside:
    """Hold the part in the task, and in the scheduler's store where it has one; see `Task.set_aside`."""
    task.check_process()
    held = set_aside(task.dispatcher, task.state, amount, asyncio.get_running_loop().time())
    if isinstance(held, Shortage):
        raise _no_room(task, held)
    part, durable = SetAside(task, held), task.scheduler.durable
    if durable is not None:
        try:
            short = await durable.take(held)
        except BaseException:
            part.settle(NOTHING)
            raise
        if short is not None:
            part.settle(NOTHING)
            raise _no_room(task, short)
    return part


def _no_room(task: TaskAccount, short: Shortage) -> CapExceededError:
    unit = "usd" if short.unit == "nano" else short.unit
    needed, left = (
        float(to_usd(int(one))) if unit == "usd" else one for one in (short.needed, short.available)
    )
    return CapExceededError(
        f"task {task.name!r} has {left:g} {unit} left beside its final answer's reserve, and {needed:g} are "
        f"to be set aside",
        needed={unit: needed},
        available={unit: left},
    )
