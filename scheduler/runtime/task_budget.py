"""`task_budget`: a task without ceremony.

    async with task_budget(usd=0.05, seconds=20) as task:
        out = await graph.ainvoke(inputs)        # every model call in here is granted by the task
    print(task.report())

The scope holds for all code that is awaited inside, parallel branches, tools and sub-graphs included, and for
all steps of a generator that enters it (`elastic_agent.scheduler.runtime.context`). A plain
`ThreadPoolExecutor` loses it: submit `contextvars.copy_context().run`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from elastic_agent.budget import Caps

from .context import current_task
from .scheduler import BudgetScheduler
from .task import Task
from .task_terms import TaskTerms

__all__ = ["current_task", "task_budget"]


def task_budget(
    usd: Decimal | float | int | str | None = None,
    seconds: float | None = None,
    tokens: int | None = None,
    *,
    scheduler: BudgetScheduler | None = None,
    **options: Any,
) -> Task:
    """A task for the code inside `async with` or `with`.

    Inside another task it becomes a child of that task: the tighter cap wins.

    Args:
        usd, seconds, tokens: the caps, any subset; see `Caps`.
        scheduler: None: that of the task around it, or one that the process shares.
        options: what else may be said of a task, such as `name=` or `expect=`: see `TaskTerms`.

    Raises:
        InvalidCapsError: no cap, or an impossible one.
    """
    return Task(scheduler, TaskTerms(Caps(usd=usd, seconds=seconds, tokens=tokens), **options))
