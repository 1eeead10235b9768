"""The gateway: an OpenAI-compatible server in front of models, with a budget for every call.

    settings = GatewaySettings([Upstream("e1-tiny", load_backend("e1-tiny"))], port=0, no_keys=True)
    async with Gateway(settings) as gateway:
        gateway.url      # http://127.0.0.1:PORT/v1

The way of a request: `routes.middleware` finds who is charged, by its key (`accounts.owner`);
`serving.generation` has its body checked (`api.request_schema`) and made into calls (`serving.plan`), charges
them to a task of the owner, runs them (`answers.choices`) and sends the answers (`answers.response_writer`).
When a request ends early, for example because its client leaves, its calls are stopped and settled.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from elastic_agent.backends.base import Backend
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.runlog import events
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task

from .accounts.account_scheduler import AccountSchedulers
from .accounts.hosted_tasks import HostedTasks
from .accounts.key_owner import KeyAccounts
from .accounts.keys import Keys
from .accounts.named_tasks import NamedTasks
from .ops.connections import ConnectionLimiter, fitting_connections
from .ops.listener import Listener
from .ops.metrics import Metrics
from .ops.watchdog import Stall, Watchdog
from .routes.cors import Cors
from .routes.keys import own_key
from .routes.middleware import RequestMiddleware
from .routes.page import page_feed
from .routes.status import StatusRoutes
from .routes.tasks import TaskRoutes
from .served_models import ServedModels, given_prices, load_prices
from .serving.generation import GenerationHandler
from .serving.idempotency import Idempotency
from .serving.messages import MessagesHandler
from .settings import GatewaySettings, Limits, Upstream, without_password
from .storage.answer_table import open_answer_table
from .storage.task_table import open_task_table

log = logging.getLogger(__name__)

KEPT_STALLS = 100


class Gateway:
    """A running gateway, between `start` and `stop`.

    Args:
        settings: what it serves, and how.
        access: is called with the facts of every request, as JSON-ready values without prompts or keys.
        bound: a socket that listens already, instead of one for the settings' host and port.

    Attributes:
        url: the base URL for OpenAI clients, once started.
        hosted: the tasks that have a key of their own.
        stalls: the last stalls of the event loop, where a watchdog runs.
    """

    main: BudgetScheduler
    schedulers: AccountSchedulers
    tasks: NamedTasks
    idempotency: Idempotency
    generations: GenerationHandler
    task_routes: TaskRoutes
    status: StatusRoutes
    app: web.Application

    def __init__(
        self,
        settings: GatewaySettings,
        access: Callable[[dict[str, Any]], None] | None = None,
        *,
        bound: socket.socket | None = None,
    ) -> None:
        self.settings = settings
        self.access = access or (lambda facts: None)
        self.models = ServedModels(settings.upstreams)
        self.upstreams = self.models.by_name
        self.metrics = Metrics()
        self.connections = ConnectionLimiter(
            settings.limits, fitting_connections(settings.limits.connections)
        )
        self.keys = Keys(settings.ledger)
        self.hosted = HostedTasks()
        self.page = page_feed(with_keys=not settings.no_keys)
        self.url = ""
        self._bound = bound
        self.stalls: list[Stall] = []
        self._listener: Listener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._watchdog: Watchdog | None = None

    # Its life

    async def start(self) -> None:
        """Listen.

        Raises:
            ValueError: there is no key and `no_keys` wasn't set, or the other way round.
            StoreError: the ledger can't be reached.
            OSError: the port is taken.
        """
        await self._check_keys()
        await asyncio.to_thread(load_prices, self.settings.upstreams)
        self._make_services()
        self.app = self._make_app()
        self._listener = Listener(self.app, self.connections)
        where = await self._listener.start(self.settings.host, self.settings.port, self._bound)
        self.url = f"{where}/v1"
        self.page.start()
        self._sweeper = asyncio.ensure_future(self._sweep())
        if self.settings.watchdog:
            self._watchdog = Watchdog(self._on_stall)
            self._watchdog.start()

    async def stop(self) -> None:
        """Accept nothing new, let running calls end within the grace, end the others, settle, close."""
        if self._listener is None:
            return
        self.status.draining = True
        if self._watchdog is not None:
            self._watchdog.stop()
        await self._listener.stop_accepting()
        await self.generations.drain(self.settings.limits.grace_seconds)
        await self.page.close()
        await self._listener.close()
        await self.idempotency.aclose()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.tasks.aclose()
        await self.schedulers.aclose()
        await self.main.aclose()
        self.keys.close()
        await self.models.close_retired()
        self._listener.restore_loop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def reload(self, upstreams: Sequence[Upstream], limits: Limits) -> None:
        """Serve these models, at these prices and under these limits, from the next request on.

        Requests that run keep their model and its price. A model that is gone is closed when the last of
        these has ended. Limits on lines and headers hold for new connections.

        Raises:
            ValueError: the upstreams don't go together; nothing has changed.
        """
        settings = replace(self.settings, upstreams=upstreams, limits=limits)
        await asyncio.to_thread(load_prices, upstreams)
        self.settings = settings
        self.models.replace(upstreams, self.main.prices)
        self.tasks.backend = self.models.default
        self.connections.most = fitting_connections(limits.connections)
        self.app._client_max_size = limits.body
        for part in (self.connections, self.generations, self.idempotency, self.tasks, self.task_routes):
            part.limits = limits

    # Hosted tasks

    def host(self, task: Task, backend: Backend | None = None) -> str:
        """A new key: requests that bring it are calls of a task that is open in this process.

        The task's scheduler allocates the calls, on this event loop. `X-Elastic-Caps` opens a sub-task of the
        task: for one request, or with `X-Elastic-Task` one that further requests name. May be called from any
        thread, also before the gateway has started.

        Args:
            backend: the model of the calls, whatever model requests name; None: the scheduler's.

        Raises:
            ValueError: neither the scheduler nor `backend` says which model.
            TaskClosedError: the task has ended.
        """
        return self.hosted.host(task, backend)

    def release(self, key: str) -> None:
        """End the key of a hosted task: further requests get 401, running ones go on until the task ends."""
        self.hosted.release(key)

    # Its parts

    async def _check_keys(self) -> None:
        """Refuse to open to everybody by mistake, because the ledger lost its keys or is the wrong one."""
        if not self.upstreams:
            return
        place, there = without_password(self.settings.ledger), await self.keys.any()
        if not there and not self.settings.no_keys:
            raise ValueError(
                f"no key exists in the ledger {place}: make one (elastic-agent keys create NAME --ledger "
                f"{place}), or, to try it on this machine alone, start it with --no-keys "
                f"(in Python: no_keys=True)"
            )
        if there and self.settings.no_keys:
            raise ValueError(
                f"--no-keys, but the ledger {place} has keys: leave --no-keys out, or name another --ledger"
            )

    def _make_services(self) -> None:
        """The scheduler, the accounts, the tasks, and what answers requests."""
        settings, limits = self.settings, self.settings.limits
        self.main = BudgetScheduler(
            prices=given_prices(settings.upstreams),
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            solution=settings.solution,
            wrap_up=settings.wrap_up,
            tell=settings.tell,
            log=[*events.sinks(settings.log), self.metrics.event, self.page],
        )
        self.schedulers = AccountSchedulers(self.main, open_store(settings.ledger), settings.lease)
        self.tasks = NamedTasks(
            self.schedulers, limits, open_task_table(settings.ledger), self.models.default
        )
        self.idempotency = Idempotency(open_answer_table(settings.ledger), limits)
        self.generations = GenerationHandler(limits, self.idempotency)

    def _make_app(self) -> web.Application:
        """The routes, under the middleware."""
        settings, limits = self.settings, self.settings.limits
        generations, messages = self.generations, MessagesHandler(self.generations)
        tasks = self.task_routes = TaskRoutes(self.idempotency, limits)
        status = self.status = StatusRoutes(
            self.upstreams, self.schedulers.store, self.metrics, self._measure
        )
        keys = None if settings.no_keys else self.keys
        accounts = KeyAccounts(self.upstreams, self.schedulers, self.tasks)
        cors = Cors(settings.cors)
        middleware = RequestMiddleware(
            keys, accounts, self.hosted, self.metrics, self.access, cors, watched=settings.watchdog
        )
        app = web.Application(middlewares=[middleware.handle], client_max_size=limits.body)
        app.on_response_prepare.append(cors.add_headers)
        app.add_routes(
            [
                web.post("/v1/chat/completions", generations.chat),
                web.post("/v1/completions", generations.completion),
                web.post("/v1/responses", generations.responses),
                web.post("/v1/messages", messages.messages),
                web.post("/v1/messages/count_tokens", messages.count_tokens),
                web.get("/v1/models", status.models),
                web.get("/v1/models/{name:.+}", status.model),
                web.get("/v1/keys/me", own_key),
                web.post("/v1/tasks", tasks.open),
                web.get("/v1/tasks/{id}", tasks.get),
                web.delete("/v1/tasks/{id}", tasks.delete),
                web.get("/health", status.health),
                web.get("/ready", status.ready),
                web.get("/metrics", status.prometheus),
                web.get("/openapi.json", status.openapi),
                *self.page.routes(),
            ]
        )
        return app

    # In the background

    def _measure(self) -> None:
        self.metrics.connections.set(self.connections.open)
        self.metrics.tasks.set(len(self.tasks))

    def _on_stall(self, stall: Stall) -> None:
        self.stalls = [*self.stalls[1 - KEPT_STALLS :], stall]
        self.metrics.stalls.inc()
        who = stall.request or "no request"
        log.warning("the loop stood still for %.0f ms: %s\n%s", 1000 * stall.seconds, who, stall.stack)

    async def _sweep(self) -> None:
        """Close what is idle and delete what has expired, every few seconds."""
        while True:
            limits = self.settings.limits
            await asyncio.sleep(min(5.0, limits.idle_seconds / 4, limits.task_idle_seconds / 4))
            try:
                self._measure()  # for the other workers' /metrics
                self.connections.sweep()
                await self.tasks.sweep()
                await self.idempotency.sweep()
                await self.schedulers.sweep(limits.task_idle_seconds)
                await self.models.close_retired(self.generations.uses)
            except Exception as error:  # the next sweep tries again
                log.warning("the sweep failed: %s", type(error).__name__)
