"""A request for an answer, from its body to its end: what is charged, what runs, how errors end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from aiohttp import ClientError, web

from elastic_agent.backends.base import Backend
from elastic_agent.errors import BackendUnavailableError
from elastic_agent.scheduler.estimates.workload import FINAL
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task

from ..accounts.owner import Charge, Wanted
from ..answers.chat_format import ChatFormatter, CompletionFormatter, Formatter, ResponseContent
from ..answers.choices import Choice
from ..answers.response_writer import ResponseStream, ResponseWriter, event_stream, send_error
from ..answers.responses_format import ResponsesFormatter
from ..api.headers import IDEMPOTENCY_KEY, CallOptions, call_options, check_headers
from ..api.json_body import read_body
from ..api.request_context import CONTEXT, RequestContext
from ..api.request_schema import ChatRequest, CompletionRequest, read
from ..api.responses_schema import RENAMED, read_as_chat
from ..errors import GatewayError, to_gateway_error_or_500
from ..settings import Limits, Upstream
from .guides import check_guided
from .idempotency import Idempotency
from .plan import Plan, plan

LONG_BODY = 16 * 1024
"""Bytes of a body from which on its prompt is encoded in another thread."""
ENCODERS = 2
log = logging.getLogger(__name__)

MakeFormatter = Callable[[ResponseContent], Formatter]
Reader = Callable[[bytes], tuple[ChatRequest | CompletionRequest, MakeFormatter]]
"""Checks an endpoint's body; returns the request, and what makes the endpoint's formatter."""


@dataclass(slots=True)
class Generation:
    """One request for an answer.

    Attributes:
        context: the owner of the request, and the facts for the access log.
        make_formatter: makes the endpoint's formatter.
        event_names: events of a stream are sent under their names.
        writer: sends the answers, once the calls are made.
        response: the stream, once there is one.
    """

    request: web.Request
    context: RequestContext
    upstream: Upstream
    body: ChatRequest | CompletionRequest
    make_formatter: MakeFormatter
    options: CallOptions
    event_names: bool
    writer: ResponseWriter | None = field(default=None, init=False)
    response: ResponseStream | None = field(default=None, init=False)

    def charged(self) -> dict[str, Any] | None:
        """What the request is charged although it failed; None: nothing."""
        return None if self.writer is None else self.writer.charged()


class GenerationHandler:
    """Handles requests for answers."""

    def __init__(self, limits: Limits, idempotency: Idempotency) -> None:
        self.limits, self.idempotency = limits, idempotency
        self._timeouts: set[asyncio.Timeout] = set()
        self._users: Counter[Backend] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._encoders = ThreadPoolExecutor(ENCODERS, "encode")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`/v1/chat/completions`."""
        return await self.handle(request, lambda raw: (read(ChatRequest, raw), ChatFormatter))

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """`/v1/completions`."""
        return await self.handle(request, lambda raw: (read(CompletionRequest, raw), CompletionFormatter))

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """`/v1/responses`."""

        def read_body(raw: bytes) -> tuple[ChatRequest, MakeFormatter]:
            chat, sent = read_as_chat(raw)
            return chat, partial(ResponsesFormatter, request=sent)

        try:
            return await self.handle(request, read_body, event_names=True)
        except GatewayError as error:
            raise error.with_names(RENAMED) from None

    async def drain(self, grace: float) -> None:
        """Refuse new requests, wait up to `grace` seconds for running ones, then end these."""
        self._draining = True
        loop = asyncio.get_running_loop()
        await self._until_idle(grace)
        for timeout in list(self._timeouts):
            if not timeout.expired():
                timeout.reschedule(loop.time())
        await self._until_idle(5.0)  # they settle, and send their errors
        self._encoders.shutdown(wait=False, cancel_futures=True)

    async def _until_idle(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    # One request

    async def handle(
        self, request: web.Request, reader: Reader, *, event_names: bool = False
    ) -> web.StreamResponse:
        """Read a request and answer it, once if it has an Idempotency-Key."""
        one, raw = await self._read(request, reader, event_names)
        with self._used(one.upstream.backend):
            if IDEMPOTENCY_KEY in request.headers:
                run = partial(self._answer, one)
                owner, facts = one.context.owner.id, one.context.facts
                return await self.idempotency.once(request, owner, raw, facts, run)
            return cast("web.StreamResponse", await self._answer(one, event_stream))

    async def count_prompt(self, request: web.Request, reader: Reader) -> int:
        """The tokens of a request's prompt, by the model's own tokenizer. Costs nothing."""
        one, _ = await self._read(request, reader, event_names=False)
        with self._used(one.upstream.backend):
            await one.upstream.backend.ready()
            planned = await self._plan(one, await one.context.owner.scheduler())
        return len(planned.prompt_ids)

    async def _read(
        self, request: web.Request, reader: Reader, event_names: bool
    ) -> tuple[Generation, bytes]:
        """A request with its body checked; and the body as it came."""
        if self._draining:
            raise _shutting_down()
        check_headers(request.headers)
        options = call_options(request.headers)
        raw = await read_body(request, self.limits.request_seconds)
        body, make_formatter = reader(raw)
        context = request[CONTEXT]
        upstream = context.owner.upstream(body.model)
        context.facts |= {"model": upstream.name, "stream": bool(body.stream)}
        return Generation(request, context, upstream, body, make_formatter, options, event_names), raw

    async def _answer(
        self, one: Generation, make_stream: Callable[[str], ResponseStream]
    ) -> web.Response | ResponseStream:
        """Answer a request: with a whole response, or on the stream that `make_stream` makes.

        Raises:
            GatewayError: the request failed before anything was sent.
        """
        try:
            async with asyncio.timeout(self.limits.call_seconds) as timeout:
                with self._counted(timeout), self._used(one.upstream.backend):
                    return await self._run(one, make_stream)
        except TimeoutError:
            error = _shutting_down() if self._draining else _too_long(self.limits.call_seconds)
        except (ConnectionError, ClientError):  # the client left while we wrote
            raise asyncio.CancelledError from None
        except Exception as raised:
            error = _error_of(raised, one)
        error = error.with_charge(one.charged())
        one.context.facts["code"] = error.code
        if one.response is None or not one.response.prepared:
            raise error
        await send_error(one.response, error, named=one.event_names, route=one.context.facts["route"])
        return one.response

    def uses(self, backend: Backend) -> bool:
        """Whether a request that runs may still call a model."""
        return self._users[backend] > 0

    @contextmanager
    def _used(self, backend: Backend) -> Iterator[None]:
        """Count a user of a model. A call with an `Idempotency-Key` may outlive the request that began it."""
        self._users[backend] += 1
        try:
            yield
        finally:
            self._users[backend] -= 1
            if not self._users[backend]:
                del self._users[backend]

    @contextmanager
    def _counted(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Count a running request, which `drain` waits for, and ends by its timeout."""
        self._timeouts.add(timeout)
        self._idle.clear()
        try:
            yield
        finally:
            self._timeouts.discard(timeout)
            if not self._timeouts:
                self._idle.set()

    async def _run(
        self, one: Generation, make_stream: Callable[[str], ResponseStream]
    ) -> web.Response | ResponseStream:
        """Plan the calls, charge them to a task, run them and send their answers."""
        owner, options = one.context.owner, one.options
        await one.upstream.backend.ready()
        planned = await self._plan(one, await owner.scheduler())
        await check_guided(one.body, planned.guide, one.upstream)
        wanted = Wanted(options.task, options.caps, one.upstream, planned.choices, options.tell)
        async with owner.charge(wanted) as charge:
            if words := _words(charge, options):
                planned = await self._plan(one, await owner.scheduler(), words)
            one.writer = ResponseWriter(
                _choices(charge.task, one, planned, final=charge.final),
                one.make_formatter,
                one.upstream,
                planned.sampling.logprobs,
                planned.usage,
                charge,
                self.limits.send_seconds,
            )
            if charge.name is not None:
                one.context.facts["task"] = charge.name
            try:
                if not planned.stream:
                    return await one.writer.whole()
                one.response = make_stream(one.context.facts["id"])
                await one.writer.stream(one.request, one.response)
                return one.response
            finally:
                one.context.facts |= one.writer.facts()

    async def _plan(self, one: Generation, scheduler: BudgetScheduler, words: str = "") -> Plan:
        """The plan; a long prompt is rendered and encoded in a thread, so that the event loop runs on."""
        solution = scheduler.solution_for(one.upstream.backend)
        make = partial(
            plan,
            one.body,
            one.request.headers,
            one.upstream,
            self.limits,
            solution,
            scheduler.wrap_up,
            words,
        )
        if (one.request.content_length or LONG_BODY) < LONG_BODY:
            return make()
        return await asyncio.get_running_loop().run_in_executor(self._encoders, make)


def _words(charge: Charge, options: CallOptions) -> str:
    """What the model is told of the task that the request is charged to."""
    tell = charge.task.tell
    if options.tell is not None:
        tell = options.tell and (tell or True)
    final = options.final or charge.final or options.kind == FINAL
    return charge.task.budget_words(final=final, tell=tell)


def _choices(task: Task, one: Generation, planned: Plan, *, final: bool) -> list[Choice]:
    """The calls of a request; `final` makes each its task's final call."""
    found = []
    for index in range(planned.choices):
        sampling = planned.sampling
        if sampling.seed is not None and index:
            sampling = replace(sampling, seed=sampling.seed + 1009 * index)
        call = task.call(
            planned.prompt_ids,
            backend=one.upstream.backend,
            kind=one.options.kind,
            thinking=planned.budget.thinking,
            solution=planned.budget.solution,
            final=one.options.final or final,
            sampling=sampling,
            stop=planned.stop,
            solution_extra=planned.guide,
            tools=planned.tools,
            price=one.upstream.price,
            on_exhausted=one.options.on_exhausted,
            buffered=not planned.stream,
        )
        found.append(Choice(index, call, planned.tools, planned.format))
    return found


def _error_of(raised: Exception, one: Generation) -> GatewayError:
    """The answer to an error of a request."""
    if isinstance(raised, BackendUnavailableError):
        # The upstream's address is for the operator alone
        log.warning("%s: %s", one.upstream.name, str(raised)[:300])
        hint = ": try again" if one.charged() is None else ""
        message = f"{one.upstream.name}: its server is away, overloaded, or broke off{hint}"
        return GatewayError(503, message, "upstream_unavailable", retry_after=1.0)
    return to_gateway_error_or_500(raised, one.context.facts["id"])


def _shutting_down() -> GatewayError:
    return GatewayError(503, "the gateway is shutting down: try again", "shutting_down", retry_after=1.0)


def _too_long(seconds: float) -> GatewayError:
    return GatewayError(504, f"the call took longer than {seconds:g} s; what it used is charged", "timeout")
