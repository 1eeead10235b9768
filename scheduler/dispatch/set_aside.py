"""A part of a task's caps that is held for something other than a call, such as a graph in another process.

Both functions are written to the run log, so a replay holds and charges the same part at the same place.
"""

from __future__ import annotations

from ..allocation.task_state import TaskState
from ..ledger.accounts import Hold
from ..ledger.amounts import Amount, Shortage
from .dispatcher import Dispatcher


def set_aside(dispatcher: Dispatcher, task: TaskState, amount: Amount, now: float) -> Hold | Shortage:
    """Hold `amount` on the task's account and those above it; the final answer's reserve is left alone.

    Raises:
        TaskClosedError: the task has ended.
    """
    with dispatcher.ledger.lock:
        hold = dispatcher.ledger.hold(task.account, amount, until=now, now=now)
        if isinstance(hold, Hold):
            dispatcher.record.step += 1
            dispatcher.record.set_aside(task, amount, now)
        return hold


def settle_part(dispatcher: Dispatcher, task: TaskState, hold: Hold, actual: Amount, now: float) -> None:
    """End such a hold: the task is charged `actual`, and waiting calls may take the rest."""
    with dispatcher.ledger.lock:
        dispatcher.record.step += 1
        dispatcher.ledger.settle(hold, actual)
        dispatcher.record.part_settled(task, hold, actual, now)
        dispatcher.running.hold_ended(hold)
        dispatcher.request_pass(task.account, now)
