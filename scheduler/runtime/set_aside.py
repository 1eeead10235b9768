"""A part of a task's caps that is held for something other than a call: see `Task.set_aside`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elastic_agent.budget import to_usd
from elastic_agent.errors import CapExceededError

from ..dispatch.set_aside import set_aside, settle_part
from ..ledger.accounts import Hold
from ..ledger.amounts import NOTHING, Amount, Shortage
from .clock import loop_time

if TYPE_CHECKING:
    from .task_account import TaskAccount


class SetAside:
    """A part of a task's caps, held until `settle`. It is charged whole when the task ends before.

    Args:
        parts: the parts of the task that are held; this one is among them until it is settled.

    Attributes:
        amount: the tokens and nano-dollars that are held.
    """

    def __init__(self, task: TaskAccount, hold: Hold, parts: set[SetAside]) -> None:
        self._task, self._hold, self._parts, self.amount = task, hold, parts, hold.amount
        parts.add(self)

    def settle(self, spent: Amount) -> None:
        """Charge the task what was spent; the rest comes back. A second time nothing happens."""
        if self in self._parts:
            self._parts.discard(self)
            settle_part(self._task.dispatcher, self._task.state, self._hold, spent, loop_time())


async def hold_part(task: TaskAccount, amount: Amount, parts: set[SetAside]) -> SetAside:
    """Hold the part in the task, and in the scheduler's store where it has one; see `Task.set_aside`."""
    task.check_process()
    held = set_aside(task.dispatcher, task.state, amount, loop_time())
    if isinstance(held, Shortage):
        raise _no_room(task, held)
    part, durable = SetAside(task, held, parts), task.scheduler.durable
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
