"""The task that a request is charged to: one of its own on its key's account, or the one that it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from elastic_agent.backends.base import Backend
from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler.ledger.stores.protocol import Spec
from elastic_agent.scheduler.policies.protocol import Choice, State
from elastic_agent.scheduler.runtime.task import Task

from ..accounts.account_scheduler import AccountScheduler
from ..accounts.named_tasks import NamedTask, NamedTasks
from ..api.headers import check_task_id, header_caps
from ..errors import GatewayError, to_gateway_error


@dataclass(frozen=True, slots=True)
class AsRequested:
    """The policy of a request outside of named tasks: it gets the thinking that it asks for."""

    name: str = "as asked"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        return Choice(state.most, "what the request asked for")


@asynccontextmanager
async def own_task(
    scheduler: AccountScheduler, owner: Spec, backend: Backend, choices: int
) -> AsyncIterator[tuple[Task, None]]:
    """A task for one request.

    Its cap is more than the request can use: the request's budgets and its key's caps are what limits it.

    Raises:
        EndpointBusyError: the model's queue is full.
        GatewayError: a cap of the key can't hold the request.
    """
    busy = scheduler.endpoint_for(backend).full(owner.id)
    if busy is not None:
        raise busy
    caps = Caps(tokens=2 * choices * backend.context_length)
    scheduler.users += 1
    task = scheduler.task(caps, on_exhausted="raise", policy=AsRequested(), key=owner.id)
    try:
        task.open()
        yield task, None
    except CapExceededError as error:
        refunds = await scheduler.refunds(task if task._state else None)
        raise to_gateway_error(error, refunds=refunds) from error
    finally:
        scheduler.users -= 1
        await task.aclose()


@asynccontextmanager
async def named_task(
    tasks: NamedTasks, owner: Spec, id: str, caps: str | None
) -> AsyncIterator[tuple[Task, NamedTask]]:
    """The task that a request names; where the request brings `caps`, it is opened first.

    Raises:
        GatewayError: there is no such task, or a cap can't hold the request.
        TaskClosedError: the task has ended.
    """
    check_task_id(id)
    if caps is not None:
        named: NamedTask | None = await tasks.open(owner, header_caps(caps), id=id)
    else:
        named = await tasks.find(owner, id)
    if named is None:
        raise GatewayError(
            404,
            f"no task is called {id!r}: open it with a POST to /v1/tasks, or send X-Elastic-Caps along",
            "task_not_found",
            param="X-Elastic-Task",
        )
    named.running += 1
    try:
        yield named.task, named
    except CapExceededError as error:
        await tasks.check_open(named)
        raise to_gateway_error(error, refunds=await named.scheduler.refunds(named.task)) from error
    finally:
        named.running -= 1
        tasks.request_ended(named)
