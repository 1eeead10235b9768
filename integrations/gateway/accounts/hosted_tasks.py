"""Tasks of this process that clients reach by a key: whatever they send with it are calls of the task.

So an agent in another framework, language or process takes part in a task that was opened here, by the wire
that it uses anyway. Its calls are those of the task in every respect: the task's scheduler allocates them,
their model is the task's, and the task's caps hold.

A request may name any model, because an agent names the one that it has in production (`gpt-5-mini`, say)
and is hosted to run on another one.

A key is 256 random bits and is kept by its digest, like the keys of the ledger. It works until it is
released, in this process alone.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from elastic_agent.backends.base import Backend
from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError, TaskClosedError
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task

from ..errors import RETRY_SECONDS, GatewayError, bad_request, to_gateway_error
from ..settings import Upstream
from .keys import digest
from .owner import Charge, Wanted, by_unit, no_such_task

PREFIX = "eh-"
"""How the keys begin: a gateway that asks for no key still refuses one that was released."""


@dataclass(slots=True, eq=False)
class HostedTask:
    """A task as the owner of requests; see `Owner`.

    Attributes:
        id: random, since names of tasks repeat.
        refused: a cap could not hold the last request that has ended; malformed ones do not count.
    """

    task: Task
    model: Upstream
    id: str = field(default_factory=lambda: f"hosted/{secrets.token_hex(8)}")
    refused: bool = False
    _named: dict[str, Task] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def upstreams(self) -> Mapping[str, Upstream]:
        """The task's model alone."""
        return {self.model.name: self.model}

    def upstream(self, name: str | None) -> Upstream:
        """The task's model, whatever the request calls it."""
        return self.model

    async def scheduler(self) -> BudgetScheduler:
        """The task's."""
        return self.task.scheduler

    @asynccontextmanager
    async def charge(self, wanted: Wanted) -> AsyncIterator[Charge]:
        """The task; a named sub-task; or, with caps and no name, a sub-task for this request."""
        single = wanted.id is None and wanted.caps is not None
        task = self.task
        try:
            if wanted.id is not None:
                task = self._find_or_open(wanted.id, wanted.caps)
            elif wanted.caps is not None:
                task = self._open(wanted.caps, {})
            yield Charge(task, wanted.id, single, lambda: task.left.to_dict())
            self.refused = False
        except CapExceededError as error:
            self.refused = True
            raise to_gateway_error(error, refunds=RETRY_SECONDS if _others_hold(task) else None) from error
        except BaseException:
            self.refused = False
            raise
        finally:
            if single and task is not self.task:
                await task.aclose()

    # Sub-tasks

    def _open(self, caps: Caps, options: Mapping[str, Any]) -> Task:
        return self.task.task(caps, **{"on_exhausted": self.task.on_exhausted, **options}).open()

    def _find_or_open(self, id: str, caps: Caps | None) -> Task:
        """The sub-task of this name, which is opened if there is none and the request brings caps."""
        found = self._named.get(id)
        if found is None:
            if caps is None:
                raise no_such_task(id)
            found = self._named[id] = self._open(caps, {"name": id})
        elif caps is not None and caps != found.caps:
            raise bad_request("X-Elastic-Caps", f"task {id!r} was opened with other caps", "caps_differ")
        return found

    async def spend(self) -> dict[str, Any]:
        """Of the task."""
        report = self.task.report()
        return {
            "caps": report.caps.to_dict(),
            "per": None,
            "resets": None,
            "spent": report.spent.to_dict(),
            "held": by_unit(self.task.state.account.held),
            "left": self.task.left.to_dict(),
            "past": by_unit(Amount()),
        }

    async def open_task(self, caps: Caps, id: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """A sub-task, which ends with the task at the latest."""
        id = id or f"task-{secrets.token_hex(8)}"
        if id in self._named:
            raise GatewayError(400, f"there is a task called {id!r} already", "task_exists", param="id")
        given = {name: value for name, value in options.items() if value is not None}
        self._named[id] = self._open(caps, given | {"name": id})
        return await self.task_report(id)

    async def task_report(self, id: str) -> dict[str, Any]:
        """Of a sub-task."""
        task = self._named.get(id)
        if task is None:
            raise GatewayError(404, f"there is no task {id[:64]!r}", "task_not_found")
        report = task.report()
        return {
            "id": id,
            "object": "task",
            "closed": task.closed,
            "caps": report.caps.to_dict(),
            "spent": report.spent.to_dict(),
            "held": by_unit(task.state.account.held),
            "left": task.left.to_dict(),
            "calls": report.to_dict()["calls"],
        }

    async def close_task(self, id: str) -> dict[str, Any]:
        """A sub-task ends; its name stays taken."""
        report = await self.task_report(id)
        await self._named[id].aclose()
        return report | {"closed": True}


class HostedTasks:
    """The tasks that a gateway hosts, by the digests of their keys."""

    def __init__(self) -> None:
        self._by_digest: dict[str, HostedTask] = {}

    def host(self, task: Task, backend: Backend | None = None) -> str:
        """A key for a task: see `Gateway.host`."""
        backend = backend or task.scheduler.backend
        if backend is None:
            raise ValueError(
                "which model? make the BudgetScheduler of a hosted task with one, or pass backend="
            )
        if task.closed:
            raise TaskClosedError(f"task {task.name!r} has ended: it takes no more calls")
        secret = PREFIX + secrets.token_urlsafe(32)
        self._by_digest[digest(secret)] = HostedTask(task, Upstream(backend.model, backend))
        return secret

    def release(self, secret: str) -> None:
        """End a key: see `Gateway.release`."""
        self._by_digest.pop(digest(secret), None)

    def find(self, secret: str) -> HostedTask | None:
        """The task of a key; None: there is none, or its key was released."""
        return self._by_digest.get(digest(secret))


def _others_hold(task: Task) -> bool:
    """Whether other calls hold something that may be refunded and make room."""
    return any(account.held != account.reserved for account in task.state.account.path)
