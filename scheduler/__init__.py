"""How a task's caps become grants.

    from elastic_agent.scheduler import BudgetScheduler, task_budget

Its rooms, from the ground up; each may import those above it in this list, and the core:

ledger      what may be spent: accounts, holds, prices, durable stores
latency     how fast: the speed of a model, and what a deadline leaves
estimates   how much work: success curves, lengths, what is still to come
policies    how thinking is shared
allocation  one answer from one snapshot; reads only
queueing    which call is next, and which task may enter
runlog      what is written of a run
dispatch    decides, and alone writes what was decided
runtime     tasks and calls on an event loop
analysis    what a recorded run says afterwards

All but `runtime` and the stores is plain synchronous code that is told the time. Names are loaded when first
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "AllocationPolicy": "policies.protocol",
    "BudgetScheduler": "runtime.scheduler",
    "CallReport": "runlog.report",
    "CapAmounts": "runlog.report",
    "Curve": "estimates.success_curve",
    "CurveSet": "estimates.success_curve",
    "FixedCap": "policies.simple",
    "Grant": "allocation.grant",
    "Latency": "latency.model",
    "LearntCurves": "estimates.online_curves",
    "Ledger": "ledger.ledger",
    "Marginal": "policies.marginal",
    "Pool": "policies.pacing",
    "Price": "ledger.prices",
    "Task": "runtime.task",
    "TaskCall": "runtime.call",
    "TaskReport": "runlog.report",
    "Timing": "latency.slack",
    "Uniform": "policies.simple",
    "account": "ledger.durable.options",
    "current_task": "runtime.context",
    "default_scheduler": "runtime.scheduler",
    "open_store": "ledger.stores",
    "task_budget": "runtime.task_budget",
}
_ERRORS = ("CapExceededError", "DeadlineError", "InvalidCapsError", "TaskClosedError", "UnknownPriceError")

__all__ = [
    "AllocationPolicy",
    "BudgetScheduler",
    "CallReport",
    "CapAmounts",
    "CapExceededError",
    "Curve",
    "CurveSet",
    "DeadlineError",
    "FixedCap",
    "Grant",
    "InvalidCapsError",
    "Latency",
    "LearntCurves",
    "Ledger",
    "Marginal",
    "Pool",
    "Price",
    "Task",
    "TaskCall",
    "TaskClosedError",
    "TaskReport",
    "Timing",
    "Uniform",
    "UnknownPriceError",
    "account",
    "current_task",
    "default_scheduler",
    "open_store",
    "task_budget",
]

if TYPE_CHECKING:
    from elastic_agent.errors import (
        CapExceededError,
        DeadlineError,
        InvalidCapsError,
        TaskClosedError,
        UnknownPriceError,
    )

    from .allocation.grant import Grant
    from .estimates.online_curves import LearntCurves
    from .estimates.success_curve import Curve, CurveSet
    from .latency.model import Latency
    from .latency.slack import Timing
    from .ledger.durable.options import account
    from .ledger.ledger import Ledger
    from .ledger.prices import Price
    from .ledger.stores import open_store
    from .policies.marginal import Marginal
    from .policies.pacing import Pool
    from .policies.protocol import AllocationPolicy
    from .policies.simple import FixedCap, Uniform
    from .runlog.report import CallReport, CapAmounts, TaskReport
    from .runtime.call import TaskCall
    from .runtime.context import current_task
    from .runtime.scheduler import BudgetScheduler, default_scheduler
    from .runtime.task import Task
    from .runtime.task_budget import task_budget


def __getattr__(name: str) -> Any:
    if name in _ERRORS:
        value = getattr(import_module("elastic_agent.errors"), name)
    elif name in _HOME:
        value = getattr(import_module(f"elastic_agent.scheduler.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
