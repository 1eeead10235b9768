"""The gateway: an OpenAI-compatible server in front of models, with a budget for every call.

    config = Config([Upstream("e1-tiny", load_backend("e1-tiny"))], port=0, no_keys=True)
    async with Gateway(config) as gateway:
        gateway.url      # http://127.0.0.1:PORT/v1

A request is read and checked (`fields`), becomes a plan (`plan`), is charged to its key or its task (`books`,
`tasks`), runs (`choices`) and is written in OpenAI's shape (`wire`). Whatever ends a request, be it that its
client leaves, stops its calls, and they are settled before anything else happens.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from aiohttp import web

from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import Spec
from elastic_agent.scheduler.runlog import events
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler

from .accounts.accounts import Payers
from .accounts.keys import Key, Keys
from .accounts.tasks import Tasks
from .api.errors import GatewayError, answer_to
from .api.headers import answered, check_local, read_body, whole
from .api.openapi import description
from .api.task_routes import TaskRoutes
from .ops.connections import (
    AT_ONCE,
    Guard,
    Runner,
    fitting_connections,
    queue_more,
)
from .ops.metrics import Metrics
from .ops.watchdog import REQUEST, Stall, Watchdog
from .serving.generation import Generations
from .serving.idempotency import Idempotency
from .serving.kept_answers import open_answers
from .serving.recorder import HEADER
from .settings import Config, Upstream, without_password

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Asking:
    """What a request carries.

    Attributes:
        facts: what the access log will say of it.
        key: whose it is; None where there are no keys.
    """

    facts: dict[str, Any]
    key: Key | None = None


ASKING = web.RequestKey("asking", Asking)
OPEN = Spec("open")
"""The account of a gateway without keys."""
FREE = ("/health", "/ready", "/metrics", "/openapi.json")
"""Routes that need no key and tell nothing of anybody's."""
PROBE_SECONDS = 3.0


class Gateway:
    """A running gateway, between `start` and `stop`.

    Args:
        config: what it serves, and how.
        access: hears of every request, as JSON-ready facts without prompts or keys.
    """

    def __init__(self, config: Config, access: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.config = config.checked()
        self.access = access or (lambda facts: None)
        self.upstreams = {upstream.name: upstream for upstream in config.upstreams}
        self.metrics = Metrics()
        self.guard = Guard(config.limits, fitting_connections(config.limits.connections))
        self.keys = Keys(config.ledger)
        self.draining = False
        self.url = ""
        self.payers: Payers
        self.tasks: Tasks
        self.generations: Generations
        self.idempotency: Idempotency
        self._runner: Runner | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._loops_own: Any = None
        self._watchdog: Watchdog | None = None
        self.stalls: list[Stall] = []
        self._looking: asyncio.Task[dict[str, Any]] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ValueError: there is no key and `no_keys` wasn't set, or the other way round.
            StoreError: the ledger can't be reached.
            OSError: the port is taken.
        """
        config, limits = self.config, self.config.limits
        await self._check_keys()
        main = BudgetScheduler(
            prices={one.backend.model: one.price for one in config.upstreams if one.price is not None},
            max_running=config.max_running,
            max_waiting=config.max_waiting,
            solution=config.solution,
            wrap_up=config.wrap_up,
            log=[*events.sinks(config.log), self.metrics.event],
        )
        self.main = main
        self.payers = Payers(main, open_store(config.ledger), config.lease)
        default = config.upstreams[0].backend
        self.tasks = Tasks(self.payers, limits.tasks, limits.task_idle_seconds, default)
        self.idempotency = Idempotency(
            open_answers(config.ledger),
            seconds=limits.answer_seconds,
            leave_seconds=limits.leave_seconds,
            call_seconds=limits.call_seconds,
            send_seconds=limits.send_seconds,
        )
        self.generations = Generations(self.payers, self.tasks, limits, self.idempotency)
        app = web.Application(middlewares=[self._around], client_max_size=limits.body)
        tasks = self._task_routes = TaskRoutes(self.tasks, self._owner, limits.request_seconds)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completion),
                web.post("/v1/responses", self._responses),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{name:.+}", self._model),
                web.post("/v1/tasks", self._open_task),
                web.get("/v1/tasks/{id}", tasks.get),
                web.delete("/v1/tasks/{id}", tasks.delete),
                web.get("/health", self._health),
                web.get("/ready", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/openapi.json", self._openapi),
            ]
        )
        self._runner = Runner(
            app,
            self.guard,
            handler_cancellation=True,  # a client that leaves stops its calls
            access_log=None,
            shutdown_timeout=5.0,
            lingering_time=1.0,  # for what is still sent of a body that nobody will read
            keepalive_timeout=limits.idle_seconds,
            max_line_size=limits.line,
            max_field_size=limits.line,
            max_headers=limits.headers,
            auto_decompress=False,  # a few bytes would become many: see `intake`
        )
        await self._runner.setup()
        self._quiet_loop()
        site = web.TCPSite(self._runner, config.host, config.port, backlog=AT_ONCE)
        await site.start()
        queue_more(site._server.sockets if isinstance(site._server, asyncio.Server) else ())
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        self._sweeper = asyncio.ensure_future(self._sweep())
        if config.watchdog:
            self._watchdog = Watchdog(self._stalled)
            self._watchdog.start()

    async def stop(self) -> None:
        """Take nothing new, let what runs end within the grace, end the rest, settle, close."""
        self.draining = True
        runner = self._runner
        if runner is None:
            return
        if self._watchdog is not None:
            self._watchdog.stop()
        for site in list(runner.sites):
            await site.stop()
        await self.generations.drain(self.config.limits.grace_seconds)
        await runner.cleanup()
        await self.idempotency.aclose()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.tasks.aclose()
        await self.payers.aclose()
        await self.main.aclose()
        self.keys.close()
        asyncio.get_running_loop().set_exception_handler(self._loops_own)

    def _stalled(self, stall: Stall) -> None:
        self.stalls = [*self.stalls[-99:], stall]
        self.metrics.stalls.inc()
        who = stall.request or "no request"
        log.warning("the loop stood still for %.0f ms: %s\n%s", 1000 * stall.seconds, who, stall.stack)

    def _quiet_loop(self) -> None:
        """asyncio tells of each connection that it can't accept for want of files, thousands in a moment.
        Here the guard makes room instead, and tells it once."""
        loop = asyncio.get_running_loop()
        before = self._loops_own = loop.get_exception_handler()

        def told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                self.guard.out_of_files()
            elif before is not None:
                before(loop, context)
            else:
                loop.default_exception_handler(context)

        loop.set_exception_handler(told)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _check_keys(self) -> None:
        """A ledger that lost its keys, or another file of its name, must not open a gateway to everybody."""
        place, there = without_password(self.config.ledger), await self.keys.any()
        if not there and not self.config.no_keys:
            raise ValueError(
                f"no key exists in the ledger {place}: make one (elastic-agent keys create NAME --ledger "
                f"{place}), or, to try it on this machine alone, start it with --no-keys "
                f"(in Python: no_keys=True)"
            )
        if there and self.config.no_keys:
            raise ValueError(
                f"--no-keys, but the ledger {place} has keys: leave --no-keys out, or name another --ledger"
            )

    # Around every request

    @web.middleware
    async def _around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Who asks, errors as answers, one line in the access log."""
        began, id = time.perf_counter(), uuid4().hex
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        facts: dict[str, Any] = {"id": id, "method": request.method, "route": route}
        if self._watchdog is not None and (task := asyncio.current_task()) is not None:
            task.set_name(f"{REQUEST}{request.method[:16]} {route} {id}")
        request[ASKING] = Asking(facts)
        # Requests that came in one piece would be answered in one go, since nothing in them waits
        await asyncio.sleep(0)
        self.metrics.running.inc()
        status = 499  # its client has left
        try:
            try:
                if not request.body_exists:
                    whole(request)
                if self.config.no_keys:
                    check_local(request.headers)
                if route not in FREE:
                    request[ASKING].key = await self._who(request)
                response: web.StreamResponse = await handler(request)
            except web.HTTPException as error:
                response = _http_error(error, request).response()
            except GatewayError as error:
                facts["code"] = error.code
                response = error.response()
            except Exception as error:
                answer = answer_to(error, id)
                facts["code"] = answer.code
                response = answer.response()
            status = response.status
            if not response.prepared:
                response.headers["X-Request-Id"] = id
            return response
        finally:
            answered(request)
            seconds = time.perf_counter() - began
            self.metrics.running.dec()
            self.metrics.request(route, status, seconds)
            self.access(
                facts | {"status": status, "ms": round(seconds * 1000, 3), "at": round(time.time(), 3)}
            )

    async def _who(self, request: web.Request) -> Key | None:
        """The key of a request; None where no keys are asked for.

        Raises:
            GatewayError: 401.
        """
        if self.config.no_keys:
            return None
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise GatewayError(401, "send a key: Authorization: Bearer KEY", "no_key")
        key = await self.keys.find(secret)
        if key is None:
            raise GatewayError(401, "nobody has this key", "invalid_api_key")
        request[ASKING].facts["key"] = key.name
        if key.revoked:
            raise GatewayError(401, "this key was revoked", "revoked_api_key")
        return key

    @staticmethod
    def _owner(request: web.Request) -> Spec:
        key = request[ASKING].key
        return OPEN if key is None else key.spec()

    # Routes

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self.generations.chat(
            request, self._owner(request), request[ASKING].facts, self.upstreams
        )

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        asking = request[ASKING]
        return await self.generations.completion(request, self._owner(request), asking.facts, self.upstreams)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        asking = request[ASKING]
        return await self.generations.responses(request, self._owner(request), asking.facts, self.upstreams)

    async def _open_task(self, request: web.Request) -> web.StreamResponse:
        if HEADER not in request.headers:
            return await self._task_routes.open(request)
        raw = await read_body(request, self.config.limits.request_seconds)
        facts = request[ASKING].facts
        return await self.idempotency.once(
            request, self._owner(request).id, raw, facts, lambda _: self._task_routes.open(request)
        )

    async def _models(self, request: web.Request) -> web.Response:
        found = [_model(upstream) for upstream in self.upstreams.values()]
        return web.json_response({"object": "list", "data": found})

    async def _model(self, request: web.Request) -> web.Response:
        return web.json_response(
            _model(self.generations.upstream(request.match_info["name"], self.upstreams))
        )

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        """Whether a call could be answered: the ledger is there, and one of the upstreams. Who asks meanwhile
        hears the same: the route needs no key, and each look asks all of them."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        told = await asyncio.shield(self._looking)
        return web.json_response(told, status=200 if told["ready"] else 503)

    async def _look(self) -> dict[str, Any]:
        names = list(self.upstreams)
        ledger, *models = await asyncio.gather(
            self._ledger_there(),
            *(upstream.reachable(PROBE_SECONDS) for upstream in self.upstreams.values()),
        )
        ready = ledger and any(models) and not self.draining
        return {
            "ready": ready,
            "draining": self.draining,
            "ledger": ledger,
            "upstreams": dict(zip(names, models, strict=True)),
        }

    async def _ledger_there(self) -> bool:
        with suppress(Exception):
            async with asyncio.timeout(PROBE_SECONDS):
                await self.payers.store.open([OPEN])
                return True
        return False

    async def _metrics(self, request: web.Request) -> web.Response:
        self.metrics.connections.set(self.guard.connections)
        self.metrics.tasks.set(len(self.tasks))
        text = self.metrics.text(asyncio.get_running_loop().time())
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(description))  # the first takes a while

    async def _sweep(self) -> None:
        limits = self.config.limits
        pause = min(5.0, limits.idle_seconds / 4, limits.task_idle_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            try:
                self.guard.sweep()
                await self.tasks.sweep()
                await self.idempotency.sweep()
                await self.payers.sweep(limits.task_idle_seconds)
            except Exception as error:  # what can't be swept now is swept later
                log.warning("the sweep failed: %s", type(error).__name__)


def _http_error(error: web.HTTPException, request: web.Request) -> GatewayError:
    """aiohttp's own refusals in OpenAI's shape."""
    path = request.path[:80] if error.status == 404 else ""
    messages = {
        404: f"there is no {path}; see /openapi.json",
        405: f"{request.method[:16]} is not for this path; see /openapi.json",
        413: "the body is too large",
        417: "only Expect: 100-continue is known",
    }
    code = {404: "no_route", 405: "method_not_allowed", 413: "request_too_large"}.get(
        error.status, "http_error"
    )
    return GatewayError(error.status, messages.get(error.status, error.reason or "refused"), code)


def _model(upstream: Upstream) -> dict[str, Any]:
    return {
        "id": upstream.name,
        "object": "model",
        "created": 0,
        "owned_by": "elastic-agent",
        "max_model_len": upstream.backend.context_length,
    }
