"""How a task's caps become grants.

    from elastic_agent.scheduler import BudgetScheduler, task_budget

The centre is plain synchronous code that is told the time: `ledger` (accounts and holds), `cost` (prices),
`latency` (speeds), `curves`, `learnt` and `forecast` (what thinking is worth and what is still to come),
`policies` (who gets how much; `baselines` and `oracle` to measure them by), `pool` (a price for what all
tasks share), `plan` and `decide` (one decision), `desk` (the queue). `task`, `call` and `scheduler` drive it
on an event loop. Names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "AllocationPolicy": "policies",
    "BudgetScheduler": "scheduler",
    "CallReport": "report",
    "Curve": "curves",
    "CurveSet": "curves",
    "Decay": "baselines",
    "FixedCap": "policies",
    "Grant": "grant",
    "GreedyUpfront": "baselines",
    "Latency": "latency",
    "LearntCurves": "learnt",
    "Ledger": "ledger",
    "Marginal": "policies",
    "Myopic": "baselines",
    "Pool": "pool",
    "Price": "cost",
    "Proportional": "baselines",
    "Task": "task",
    "TaskCall": "call",
    "TaskReport": "report",
    "Timing": "timing",
    "Uniform": "policies",
    "Units": "report",
    "account": "durable",
    "current_task": "context",
    "default_scheduler": "scheduler",
    "open_store": "stores",
    "task_budget": "scope",
}
_ERRORS = ("CapExceededError", "DeadlineError", "InvalidCapsError", "TaskClosedError", "UnknownPriceError")

__all__ = [
    "AllocationPolicy",
    "BudgetScheduler",
    "CallReport",
    "CapExceededError",
    "Curve",
    "CurveSet",
    "DeadlineError",
    "Decay",
    "FixedCap",
    "Grant",
    "GreedyUpfront",
    "InvalidCapsError",
    "Latency",
    "LearntCurves",
    "Ledger",
    "Marginal",
    "Myopic",
    "Pool",
    "Price",
    "Proportional",
    "Task",
    "TaskCall",
    "TaskClosedError",
    "TaskReport",
    "Timing",
    "Uniform",
    "Units",
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
    from elastic_agent.scheduler.baselines import Decay, GreedyUpfront, Myopic, Proportional
    from elastic_agent.scheduler.call import TaskCall
    from elastic_agent.scheduler.context import current_task
    from elastic_agent.scheduler.cost import Price
    from elastic_agent.scheduler.curves import Curve, CurveSet
    from elastic_agent.scheduler.durable import account
    from elastic_agent.scheduler.grant import Grant
    from elastic_agent.scheduler.latency import Latency
    from elastic_agent.scheduler.learnt import LearntCurves
    from elastic_agent.scheduler.ledger import Ledger
    from elastic_agent.scheduler.policies import AllocationPolicy, FixedCap, Marginal, Uniform
    from elastic_agent.scheduler.pool import Pool
    from elastic_agent.scheduler.report import CallReport, TaskReport, Units
    from elastic_agent.scheduler.scheduler import BudgetScheduler, default_scheduler
    from elastic_agent.scheduler.scope import task_budget
    from elastic_agent.scheduler.stores import open_store
    from elastic_agent.scheduler.task import Task
    from elastic_agent.scheduler.timing import Timing


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
