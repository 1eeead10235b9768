"""A request for answers, from its body to its end: who pays, what runs, and what becomes of errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from aiohttp import ClientError, web

from elastic_agent.backends.base import Backend
from elastic_agent.budget import Caps
from elastic_agent.errors import BackendUnavailableError, CapExceededError
from elastic_agent.scheduler.ledger.stores.protocol import Spec
from elastic_agent.scheduler.policies.protocol import Choice as Thinking
from elastic_agent.scheduler.policies.protocol import State
from elastic_agent.scheduler.runtime.task import Task

from ..accounts.accounts import Payer, Payers
from ..accounts.tasks import OpenTask, Tasks
from ..api import responses_request
from ..api.chat_format import Chat, Completion, Format, Said
from ..api.errors import GatewayError, answer_to, bad, told
from ..api.headers import Terms, check_task_id, read_body, terms
from ..api.request_schema import (
    ChatRequest,
    CompletionRequest,
    check_headers,
    header_caps,
    read,
    unknown,
)
from ..settings import Limits, Upstream
from .choices import Choice
from .idempotency import Idempotency
from .plan import Plan, check_engine, plan
from .recorder import HEADER
from .response_writer import Exchange, Stream, event_stream, last_words

LONG_BODY = 16 * 1024
"""Bytes from which on a body is encoded in another thread."""
ENCODERS = 2
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AsAsked:
    """The policy of a request outside of any task: it gets what it asked for."""

    name: str = "as asked"

    def choose(self, state: State) -> Thinking:
        """See `AllocationPolicy`."""
        return Thinking(state.most, "what the request asked for")


class Generations:
    """Answers requests for answers.

    Args:
        payers: who pays.
        tasks: the tasks that clients name.
        limits: how much a client may ask.
        idempotency: runs a request that has a key once.
    """

    def __init__(self, payers: Payers, tasks: Tasks, limits: Limits, idempotency: Idempotency) -> None:
        self.payers, self.tasks, self.limits, self.idempotency = payers, tasks, limits, idempotency
        self._timeouts: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._encoders = ThreadPoolExecutor(ENCODERS, "encode")

    async def chat(
        self, request: web.Request, owner: Spec, facts: dict[str, Any], upstreams: Mapping[str, Upstream]
    ) -> web.StreamResponse:
        """`/v1/chat/completions`."""
        return await self._answer(
            request, owner, facts, upstreams, lambda raw: (read(ChatRequest, raw), Chat)
        )

    async def completion(
        self, request: web.Request, owner: Spec, facts: dict[str, Any], upstreams: Mapping[str, Upstream]
    ) -> web.StreamResponse:
        """`/v1/completions`."""
        return await self._answer(
            request, owner, facts, upstreams, lambda raw: (read(CompletionRequest, raw), Completion)
        )

    async def responses(
        self, request: web.Request, owner: Spec, facts: dict[str, Any], upstreams: Mapping[str, Upstream]
    ) -> web.StreamResponse:
        """`/v1/responses`."""
        try:
            return await self._answer(
                request, owner, facts, upstreams, responses_request.read_as_chat, event_names=True
            )
        except GatewayError as error:
            raise responses_request.renamed(error) from None

    def upstream(self, name: str | None, upstreams: Mapping[str, Upstream]) -> Upstream:
        """The model of this name; the first when none is named.

        Raises:
            GatewayError: 404.
        """
        if name is None:
            return next(iter(upstreams.values()))
        if name not in upstreams:
            raise unknown("model", name, list(upstreams))
        return upstreams[name]

    async def drain(self, grace: float) -> None:
        """Refuse what is new; wait so many seconds for what runs, then end it."""
        self._draining = True
        loop = asyncio.get_running_loop()
        await self._over(grace)
        for timeout in list(self._timeouts):
            if not timeout.expired():
                timeout.reschedule(loop.time())
        await self._over(5.0)  # they settle, and tell their clients
        self._encoders.shutdown(wait=False, cancel_futures=True)

    async def _over(self, seconds: float) -> None:
        """Wait until nothing runs, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def _beside(self, make: Callable[[], Plan]) -> Plan:
        return await asyncio.get_running_loop().run_in_executor(self._encoders, make)

    # One request

    async def _answer(
        self,
        request: web.Request,
        owner: Spec,
        facts: dict[str, Any],
        upstreams: Mapping[str, Upstream],
        read: Callable[[bytes], tuple[ChatRequest | CompletionRequest, Callable[[Said], Format]]],
        *,
        event_names: bool = False,
    ) -> web.StreamResponse:
        if self._draining:
            raise _going()
        check_headers(request.headers)
        how = terms(request.headers)
        raw = await read_body(request, self.limits.request_seconds)
        body, form = read(raw)
        upstream = self.upstream(body.model, upstreams)
        facts["model"], facts["stream"] = upstream.name, bool(body.stream)

        async def run(stream: Callable[[str], Stream]) -> Any:
            return await self._run(request, owner, facts, upstream, body, form, how, stream, event_names)

        if HEADER in request.headers:
            return await self.idempotency.once(request, owner.id, raw, facts, run)
        return cast("web.StreamResponse", await run(event_stream))

    async def _run(
        self,
        request: web.Request,
        owner: Spec,
        facts: dict[str, Any],
        upstream: Upstream,
        body: ChatRequest | CompletionRequest,
        form: Callable[[Said], Format],
        how: Terms,
        stream: Callable[[str], Stream],
        event_names: bool,
    ) -> web.Response | Stream:
        """Ask the model, and answer: whole, or on a stream that `stream` makes."""
        response: Stream | None = None
        exchange: Exchange | None = None
        try:
            async with asyncio.timeout(self.limits.call_seconds) as timeout:
                self._timeouts.add(timeout)
                self._idle.clear()
                try:
                    await upstream.backend.ready()
                    payer = await self.payers.of(owner)
                    solution, wrap_up = payer.solution_for(upstream.backend), payer.wrap_up
                    make = partial(plan, body, request.headers, upstream, self.limits, solution, wrap_up)
                    # A long prompt is rendered and encoded beside the loop, which goes on meanwhile
                    long = (request.content_length or LONG_BODY) >= LONG_BODY
                    asked = await self._beside(make) if long else make()
                    await check_engine(body, asked, upstream)
                    most = Caps(tokens=2 * asked.choices * upstream.backend.context_length)
                    async with self._task(request, owner, payer, upstream.backend, most) as (task, named):
                        answers = _choices(task, upstream, asked, how, named=named is not None)
                        exchange = Exchange(
                            answers, asked, upstream, form, payer, named, self.limits.send_seconds
                        )
                        if named is not None:
                            facts["task"] = named.id
                        try:
                            if not asked.stream:
                                return await exchange.whole()
                            response = stream(facts["id"])
                            await exchange.stream(request, response)
                            return response
                        finally:
                            facts |= exchange.facts()
                finally:
                    self._timeouts.discard(timeout)
                    if not self._timeouts:
                        self._idle.set()
        except TimeoutError:
            error = self._late()
        except GatewayError as raised:
            error = raised
        except (ConnectionError, ClientError):  # while we wrote: the client has left
            raise asyncio.CancelledError from None
        except BackendUnavailableError as raised:
            # Where the upstream is, is the operator's to know
            log.warning("%s: %s", upstream.name, str(raised)[:300])
            error = GatewayError(
                503,
                f"{upstream.name}: its server is away, overloaded, or broke off"
                + (": try again" if exchange is None or exchange.charged() is None else ""),
                "upstream_unavailable",
                retry_after=1.0,
            )
        except Exception as raised:
            error = answer_to(raised, facts["id"])
        error = error.after(None if exchange is None else exchange.charged())
        facts["code"] = error.code
        if response is None or not response.prepared:
            raise error
        await last_words(response, error, named=event_names)
        return response

    def _late(self) -> GatewayError:
        """Why a call was ended."""
        return _going() if self._draining else _too_long(self.limits.call_seconds)

    @asynccontextmanager
    async def _task(
        self, request: web.Request, owner: Spec, payer: Payer, backend: Backend, most: Caps
    ) -> AsyncIterator[tuple[Task, OpenTask | None]]:
        """What the request is charged to: the task that it names, or one of its own on its key's account.

        `most` is more than the request can use: its own budgets and its key's caps are what limits it.
        """
        id, caps = request.headers.get("X-Elastic-Task"), request.headers.get("X-Elastic-Caps")
        if id is None:
            if caps is not None:
                raise bad("X-Elastic-Caps", "X-Elastic-Caps needs X-Elastic-Task: a name for the task")
            busy = payer.endpoint_for(backend).full(owner.id)
            if busy is not None:
                raise busy
            payer.users += 1
            task = payer.task(most, on_exhausted="raise", policy=AsAsked(), key=owner.id)
            try:
                task.open()
                yield task, None
            except CapExceededError as error:
                raise told(error, refunds=await payer.refunds(task if task._state else None)) from error
            finally:
                payer.users -= 1
                await task.aclose()
            return
        check_task_id(id)
        named = None if caps is not None else await self.tasks.find(owner, id)
        if named is None and caps is None:
            raise GatewayError(
                404,
                f"no task is called {id!r}: open it with a POST to /v1/tasks, or send X-Elastic-Caps along",
                "task_not_found",
                param="X-Elastic-Task",
            )
        if named is None:
            named = await self.tasks.open(owner, header_caps(caps or ""), id=id)
        named.running += 1
        try:
            yield named.task, named
        except CapExceededError as error:
            await self.tasks.check_open(named)
            raise told(error, refunds=await named.payer.refunds(named.task)) from error
        finally:
            named.running -= 1
            self.tasks.used(named)


def _choices(task: Task, upstream: Upstream, asked: Plan, how: Terms, *, named: bool) -> list[Choice]:
    found = []
    for index in range(asked.choices):
        sampling = asked.sampling
        if sampling.seed is not None and index:
            sampling = replace(sampling, seed=sampling.seed + 1009 * index)
        call = task.call(
            asked.prompt_ids,
            backend=upstream.backend,
            kind=how.kind,
            thinking=asked.budget.thinking,
            solution=asked.budget.solution,
            final=how.final or not named,
            sampling=sampling,
            stop=asked.stop,
            solution_extra=asked.guide,
            tools=asked.tools,
            price=upstream.price,
            on_exhausted=how.on_exhausted,
            buffered=not asked.stream,
        )
        found.append(Choice(index, call, asked.tools, asked.format))
    return found


def _going() -> GatewayError:
    return GatewayError(503, "the gateway is shutting down: try again", "shutting_down", retry_after=1.0)


def _too_long(seconds: float) -> GatewayError:
    return GatewayError(504, f"the call took longer than {seconds:g} s; what it used is charged", "timeout")
