"""Who is charged: the owner of a request, by the key that the request brings.

There are two kinds of owner: a key with its account on the ledger (`key_owner`), and a task that is open in
this process (`hosted_tasks`). The rest of the gateway knows neither; it asks the owner of a request for the
models, and for the task to which the request's calls are charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from elastic_agent.budget import Caps, to_usd
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores.protocol import Spec, StoredAccount
from elastic_agent.scheduler.runlog.report import CapAmounts
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task

from ..errors import GatewayError
from ..settings import Upstream


@dataclass(frozen=True, slots=True)
class Charge:
    """What the calls of one request are charged to.

    Attributes:
        task: whose calls they are.
        name: the client's name for the task; None: the client knows of no task.
        final: each call is the final answer of the task.
        left: what is left, by unit, to be shown to the client.
    """

    task: Task
    name: str | None
    final: bool
    left: Callable[[], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request says about the task that it is charged to.

    Attributes:
        id: the name of a task; None: the request names none.
        caps: those of the named task, which is opened with them; without a name, those of the request.
        upstream: the model.
        choices: how many calls.
        tell: whether the model is told what is left of the task; None: as the task is.
    """

    id: str | None
    caps: Caps | None
    upstream: Upstream
    choices: int
    tell: bool | None = None


class Owner(Protocol):
    """See the module."""

    @property
    def id(self) -> str:
        """What tells owners apart: an `Idempotency-Key` counts within its owner."""
        ...

    @property
    def name(self) -> str | None:
        """For the access log; None: there is no key."""
        ...

    def upstreams(self) -> Mapping[str, Upstream]:
        """The models that the owner may use, by name."""
        ...

    def upstream(self, name: str | None) -> Upstream:
        """The model that a request names; None: it names none.

        Raises:
            GatewayError: 404, there is no such model.
        """
        ...

    async def scheduler(self) -> BudgetScheduler:
        """The scheduler of the owner's calls, which knows their default solution and wrap-up sentence.

        Raises:
            StoreError: the ledger can't be reached.
        """
        ...

    def charge(self, wanted: Wanted) -> AbstractAsyncContextManager[Charge]:
        """What a request is charged to, for as long as its calls run.

        Raises:
            GatewayError: there is no such task, or a cap can't hold the request.
            EndpointBusyError: the model's queue is full.
            TaskClosedError: the task has ended.
        """
        ...

    async def spend(self) -> dict[str, Any]:
        """Caps, window, spent, held and left of the key.

        Raises:
            StoreError: the ledger can't be reached.
        """
        ...

    async def open_task(self, caps: Caps, id: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """The report of a new task with these caps; `id` must be new, None makes one.

        Raises:
            GatewayError, CapExceededError: the task can't be opened.
        """
        ...

    async def task_report(self, id: str) -> dict[str, Any]:
        """Caps, spent, held, left and calls of a task.

        Raises:
            GatewayError: 404, there is no such task.
        """
        ...

    async def close_task(self, id: str) -> dict[str, Any]:
        """The report of a task, which ends.

        Raises:
            GatewayError: 404, there is no such task.
        """
        ...


def by_unit(amount: Amount, seconds: float | None = None, of: Spec | None = None) -> dict[str, float]:
    """An amount by unit; of a Spec only the units that it caps."""
    return CapAmounts(
        amount.tokens if of is None or of.tokens is not None else None,
        to_usd(amount.nano) if of is None or of.nano is not None else None,
        None if seconds is None else round(seconds, 3),
    ).to_dict()


def left_of(account: StoredAccount) -> Amount:
    """What is left of the caps: below zero where more was used than held, 0 in a unit without a cap."""
    balances = account.balances()
    tokens, nano = balances.get("tokens"), balances.get("nano")
    return Amount(int(tokens.available) if tokens else 0, int(nano.available) if nano else 0)


def no_such_task(id: str) -> GatewayError:
    """404: a request names a task that was never opened."""
    return GatewayError(
        404,
        f"no task is called {id!r}: open it with a POST to /v1/tasks, or send X-Elastic-Caps along",
        "task_not_found",
        param="X-Elastic-Task",
    )
