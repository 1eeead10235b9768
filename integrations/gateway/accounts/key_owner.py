"""The account of a key as the owner of a request: calls are charged to a task of their own on the account, or
to the task that the request names."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler.ledger.inherited_caps import inherited_room
from elastic_agent.scheduler.ledger.stores.protocol import Spec
from elastic_agent.scheduler.policies.protocol import Choice, State
from elastic_agent.scheduler.runlog.report import CapAmounts
from elastic_agent.scheduler.runtime.clock import loop_time

from ..errors import bad_request, not_found, to_gateway_error
from ..settings import Upstream
from .account_scheduler import AccountScheduler, AccountSchedulers
from .key_spend import read_spend, spend_report
from .named_tasks import NamedTasks
from .owner import Charge, Wanted, no_such_task

NO_KEY = Spec("open")
"""The account of all requests to a gateway without keys."""


@dataclass(frozen=True, slots=True)
class AsRequested:
    """The policy of a request outside of named tasks: it gets the thinking that it asks for."""

    name: str = "as asked"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        return Choice(state.most, "what the request asked for")


@dataclass(frozen=True, slots=True)
class KeyAccounts:
    """What all accounts of keys share: the models, the schedulers and the named tasks of a gateway."""

    models: Mapping[str, Upstream]
    schedulers: AccountSchedulers
    tasks: NamedTasks

    def owner(self, spec: Spec = NO_KEY, name: str | None = None) -> KeyOwner:
        """The owner whose account this is, by the name of its key."""
        return KeyOwner(self, spec, name)


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """See `Owner`."""

    accounts: KeyAccounts
    spec: Spec
    name: str | None

    @property
    def id(self) -> str:
        """The account's id."""
        return self.spec.id

    def upstreams(self) -> Mapping[str, Upstream]:
        """All of the gateway's."""
        return self.accounts.models

    def upstream(self, name: str | None) -> Upstream:
        """The model of this name; the gateway's first model without a name."""
        models = self.accounts.models
        if name is None and models:
            return next(iter(models.values()))
        if name is None or name not in models:
            raise not_found("model", name or "", list(models))
        return models[name]

    async def scheduler(self) -> AccountScheduler:
        """The one of the account, which all requests of the key share."""
        return await self.accounts.schedulers.shared(self.spec)

    def charge(self, wanted: Wanted) -> AbstractAsyncContextManager[Charge]:
        """The named task, else a task of the request's own."""
        if wanted.id is not None:
            return self._named_task(wanted.id, wanted.caps)
        if wanted.caps is not None:
            raise bad_request("X-Elastic-Caps", "X-Elastic-Caps needs X-Elastic-Task: a name for the task")
        if wanted.tell:
            raise bad_request("X-Elastic-Tell", "X-Elastic-Tell needs X-Elastic-Task: the task to tell of")
        return self._own_task(wanted)

    @asynccontextmanager
    async def _own_task(self, wanted: Wanted) -> AsyncIterator[Charge]:
        """A task for one request.

        Its cap is more than the request can use: the request's budgets and its key's caps are what limits it.
        """
        scheduler, backend = await self.scheduler(), wanted.upstream.backend
        busy = scheduler.endpoint_for(backend).full(self.id)
        if busy is not None:
            raise busy
        caps = Caps(tokens=2 * wanted.choices * backend.context_length)
        scheduler.users += 1
        task = scheduler.task(caps, on_exhausted="raise", policy=AsRequested(), key=self.id, tell=False)

        def left() -> dict[str, float]:
            """What is left of the key, as far as this process knows."""
            return CapAmounts.of(inherited_room(scheduler.durable.account()), loop_time()).to_dict()

        try:
            task.open()
            yield Charge(task, None, True, left)
        except CapExceededError as error:
            refunds = await scheduler.refunds(task if task._state else None)
            raise to_gateway_error(error, refunds=refunds) from error
        finally:
            scheduler.users -= 1
            await task.aclose()

    @asynccontextmanager
    async def _named_task(self, id: str, caps: Caps | None) -> AsyncIterator[Charge]:
        """The task that a request names; where the request brings `caps`, the task is opened first."""
        tasks = self.accounts.tasks
        if caps is not None:
            named = await tasks.open(self.spec, caps, id=id)
        else:
            found = await tasks.find(self.spec, id)
            if found is None:
                raise no_such_task(id)
            named = found
        named.running += 1
        try:
            yield Charge(named.task, id, False, lambda: named.task.left.to_dict())
        except CapExceededError as error:
            await tasks.check_open(named)
            raise to_gateway_error(error, refunds=await named.scheduler.refunds(named.task)) from error
        finally:
            named.running -= 1
            tasks.request_ended(named)

    async def spend(self) -> dict[str, Any]:
        """Of the account."""
        return spend_report(await read_spend(self.accounts.schedulers.store, self.spec), time.time())

    async def open_task(self, caps: Caps, id: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """A task on the ledger."""
        tasks = self.accounts.tasks
        named = await tasks.open(self.spec, caps, id=id, fresh=id is not None, **options)
        return await tasks.report(self.spec, named.id)

    async def task_report(self, id: str) -> dict[str, Any]:
        """By the ledger; the calls are those that this process made."""
        return await self.accounts.tasks.report(self.spec, id)

    async def close_task(self, id: str) -> dict[str, Any]:
        """The task ends for all processes."""
        return await self.accounts.tasks.close(self.spec, id)
