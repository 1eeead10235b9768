"""A request for answers, from its body to its last byte."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from aiohttp import ClientError, web

from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import CapExceededError, InvalidBudgetError
from elastic_agent.generate import bounded
from elastic_agent.integrations.gateway import choices as running
from elastic_agent.integrations.gateway.books import Payer, Payers
from elastic_agent.integrations.gateway.choices import Choice
from elastic_agent.integrations.gateway.config import Limits, Upstream
from elastic_agent.integrations.gateway.errors import GatewayError, bad, told
from elastic_agent.integrations.gateway.fields import (
    ChatRequest,
    CompletionRequest,
    check_headers,
    header_caps,
    read,
    unknown,
)
from elastic_agent.integrations.gateway.plan import Plan, plan
from elastic_agent.integrations.gateway.tasks import OpenTask, Tasks
from elastic_agent.integrations.gateway.wire import Chat, Completion, Format, budget, pairs
from elastic_agent.scheduler.policies import Choice as Thinking
from elastic_agent.scheduler.policies import State
from elastic_agent.scheduler.stores.base import Spec
from elastic_agent.scheduler.task import Task


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
    """

    def __init__(self, payers: Payers, tasks: Tasks, limits: Limits) -> None:
        self.payers, self.tasks, self.limits = payers, tasks, limits
        self._timeouts: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def chat(
        self, request: web.Request, owner: Spec, facts: dict[str, Any], upstreams: Mapping[str, Upstream]
    ) -> web.StreamResponse:
        """`/v1/chat/completions`."""
        return await self._answer(request, owner, facts, upstreams, ChatRequest, Chat())

    async def completion(
        self, request: web.Request, owner: Spec, facts: dict[str, Any], upstreams: Mapping[str, Upstream]
    ) -> web.StreamResponse:
        """`/v1/completions`."""
        return await self._answer(request, owner, facts, upstreams, CompletionRequest, Completion())

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

    async def _over(self, seconds: float) -> None:
        """Wait until nothing runs, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    # One request

    async def _answer(
        self,
        request: web.Request,
        owner: Spec,
        facts: dict[str, Any],
        upstreams: Mapping[str, Upstream],
        kind: type[ChatRequest] | type[CompletionRequest],
        form: Format,
    ) -> web.StreamResponse:
        if self._draining:
            raise _going()
        check_headers(request.headers)
        body = read(kind, await read_body(request, self.limits.request_seconds))
        upstream = self.upstream(body.model, upstreams)
        facts["model"], facts["stream"] = upstream.name, bool(body.stream)
        response: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(self.limits.call_seconds) as timeout:
                self._timeouts.add(timeout)
                self._idle.clear()
                try:
                    await upstream.backend.ready()
                    payer = await self.payers.of(owner)
                    asked = plan(
                        body, request.headers, upstream, self.limits, payer.solution_for(upstream.backend)
                    )
                    most = Caps(tokens=2 * asked.choices * upstream.backend.context_length)
                    async with self._task(request, owner, payer, most) as (task, named):
                        answers = _choices(task, upstream, asked, request.headers, named is not None)
                        if named is not None:
                            facts["task"] = named.id
                        try:
                            if not asked.stream:
                                return await self._whole(answers, asked, upstream, task, named, payer, form)
                            response = _event_stream(facts["id"])
                            return await self._stream(
                                request, response, answers, asked, upstream, task, named, payer, form
                            )
                        finally:
                            facts |= _facts(answers)
                finally:
                    self._timeouts.discard(timeout)
                    if not self._timeouts:
                        self._idle.set()
        except TimeoutError:
            error = _going() if self._draining else _too_long(self.limits.call_seconds)
            facts["code"] = error.code
        except GatewayError as raised:
            error = raised
        except (ConnectionError, ClientError):  # while we wrote: the client has left
            raise asyncio.CancelledError from None
        except Exception as raised:
            error = told(raised)
        facts["code"] = error.code
        if response is None or not response.prepared:
            raise error
        await _last_words(response, error)
        return response

    @asynccontextmanager
    async def _task(
        self, request: web.Request, owner: Spec, payer: Payer, most: Caps
    ) -> AsyncIterator[tuple[Task, OpenTask | None]]:
        """What the request is charged to: the task that it names, or one of its own on its key's account.

        `most` is more than the request can use: its own budgets and its key's caps are what limits it.
        """
        id, caps = request.headers.get("X-Elastic-Task"), request.headers.get("X-Elastic-Caps")
        if id is None:
            if caps is not None:
                raise bad("X-Elastic-Caps", "X-Elastic-Caps needs X-Elastic-Task: a name for the task")
            payer.users += 1
            task = payer.task(most, on_exhausted="raise", policy=AsAsked(), key=owner.id)
            try:
                task.open()
                yield task, None
            except CapExceededError as error:
                raise told(error, refunds=await payer.refunds(task if task._book else None)) from error
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
            named = await self.tasks.open(owner, Caps(**header_caps(caps or "")), id=id)  # type: ignore[arg-type]
        named.running += 1
        try:
            yield named.task, named
        except CapExceededError as error:
            raise told(error, refunds=await named.payer.refunds(named.task)) from error
        finally:
            named.running -= 1
            self.tasks.used(named)

    async def _whole(
        self,
        answers: list[Choice],
        asked: Plan,
        upstream: Upstream,
        task: Task,
        named: OpenTask | None,
        payer: Payer,
        form: Format,
    ) -> web.Response:
        async with aclosing(running.run(answers)) as shown:
            async for _ in shown:
                pass
        codec, logprobs = upstream.backend.codec, asked.sampling.logprobs
        body = _envelope(form.object, form.prefix, upstream) | {
            "choices": [form.whole(choice, codec, logprobs=logprobs) for choice in answers],
            "usage": running.usage(answers),
            "budget": budget(answers, named.id if named else None, lambda: _left(task, named, payer)),
        }
        used = answers[0].call.usage
        headers = {
            "X-Elastic-Granted": _granted(answers),
            "X-Elastic-Used": pairs(
                {"thinking": used.thinking, "close": used.close, "solution": used.solution}
            ),
        }
        if body["budget"]["left"]:
            headers["X-Elastic-Left"] = pairs(body["budget"]["left"])
        return web.Response(text=json.dumps(body), content_type="application/json", headers=headers)

    async def _stream(
        self,
        request: web.Request,
        response: web.StreamResponse,
        answers: list[Choice],
        asked: Plan,
        upstream: Upstream,
        task: Task,
        named: OpenTask | None,
        payer: Payer,
        form: Format,
    ) -> web.StreamResponse:
        base = _envelope(form.chunk_object, form.prefix, upstream)
        codec, logprobs = upstream.backend.codec, asked.sampling.logprobs

        async def send(chunk: dict[str, Any]) -> None:
            await self._write(response, json.dumps(base | chunk))

        async with aclosing(running.run(answers)) as shown:
            async for choice, piece in shown:
                if not response.prepared:  # until then an error is an HTTP status
                    response.headers["X-Elastic-Granted"] = _granted(answers)
                    await response.prepare(request)
                    for one in answers:
                        if (opening := form.first(one)) is not None:
                            await send({"choices": [opening]})
                if piece is None:
                    end = {"choices": [form.last(choice, codec, logprobs=logprobs)]}
                    end["budget"] = budget(  # type: ignore[assignment]
                        [choice], named.id if named else None, lambda: _left(task, named, payer)
                    )
                    await send(end)
                elif piece:
                    await send({"choices": [form.delta(choice, piece)]})
        if asked.usage:
            await send({"choices": [], "usage": running.usage(answers)})
        await self._write(response, "[DONE]")
        await response.write_eof()
        return response

    async def _write(self, response: web.StreamResponse, data: str) -> None:
        """Send an event; a client that reads nothing for too long is given up."""
        try:
            async with asyncio.timeout(self.limits.send_seconds) as timeout:
                await response.write(f"data: {data}\n\n".encode())
        except TimeoutError:
            if timeout.expired():
                raise ConnectionError("the client reads nothing") from None
            raise


async def read_body(request: web.Request, seconds: float) -> bytes:
    """A JSON body.

    Raises:
        GatewayError: 415 for another type, 408 for one that takes too long, 400 for a broken one.
    """
    if request.content_type != "application/json":
        raise GatewayError(415, "send JSON: Content-Type: application/json", "not_json")
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except TimeoutError:
        raise GatewayError(408, f"the body took longer than {seconds:g} s", "slow_body") from None
    except web.HTTPException:
        raise
    except (ClientError, web.RequestPayloadError, ValueError) as error:
        raise bad(None, "the body is broken", "broken_body") from error


def check_task_id(id: str) -> None:
    """400 for what can be no task's name."""
    if not (0 < len(id) <= 64 and id.isascii() and all(c.isalnum() or c in "_.:-" for c in id)):
        raise bad("X-Elastic-Task", "a task's id is 1 to 64 letters, digits or _ . : -")


def _choices(
    task: Task, upstream: Upstream, asked: Plan, headers: Mapping[str, str], named: bool
) -> list[Choice]:
    kind = headers.get("X-Elastic-Kind", "call")
    if not (0 < len(kind) <= 40 and kind.isascii() and all(c.isalnum() or c in "_-" for c in kind)):
        raise bad("X-Elastic-Kind", "X-Elastic-Kind is 1 to 40 letters, digits or _ -")
    final = headers.get("X-Elastic-Final", "false").lower()
    if final not in ("true", "false", "1", "0"):
        raise bad("X-Elastic-Final", "X-Elastic-Final is true or false")
    on_exhausted: Any = headers.get("X-Elastic-On-Exhausted")
    if on_exhausted not in (None, "shrink", "wait", "raise"):
        raise bad("X-Elastic-On-Exhausted", "X-Elastic-On-Exhausted is shrink, wait or raise")
    try:
        bounded(upstream.backend, len(asked.prompt_ids), asked.budget)
    except InvalidBudgetError as error:
        raise bad("solution_budget", str(error), "invalid_budget") from error
    found = []
    for index in range(asked.choices):
        sampling = asked.sampling
        if sampling.seed is not None and index:
            sampling = replace(sampling, seed=sampling.seed + 1009 * index)
        call = task.call(
            asked.prompt_ids,
            backend=upstream.backend,
            kind=kind,
            thinking=asked.budget.thinking,
            solution=asked.budget.solution,
            final=not named or final in ("true", "1"),
            sampling=sampling,
            stop=asked.stop,
            solution_extra=asked.extra,
            price=upstream.price,
            on_exhausted=on_exhausted,
        )
        found.append(Choice(index, call, tools=asked.tools, forced=asked.forced))
    return found


def _envelope(object: str, prefix: str, upstream: Upstream) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": object,
        "created": int(time.time()),
        "model": upstream.name,
    }


def _event_stream(id: str) -> web.StreamResponse:
    return web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": id,
        }
    )


def _granted(answers: list[Choice]) -> str:
    grants = [choice.call.grant for choice in answers]
    return "; ".join(
        pairs({"thinking": grant.budget.thinking, "solution": grant.budget.solution})
        for grant in grants
        if grant is not None
    )


def _left(task: Task, named: OpenTask | None, payer: Payer) -> dict[str, float]:
    """What is left of the task, or of the key, as far as this process knows."""
    if named is not None:
        return task.left.to_dict()
    assert payer.durable is not None
    room = payer.desk.ledger.room(payer.durable.account())
    found: dict[str, float] = {}
    if room.tokens is not None:
        found["tokens"] = max(0, room.tokens)
    if room.nano is not None:
        found["usd"] = float(to_usd(max(0, room.nano)))
    return found


def _facts(answers: list[Choice]) -> dict[str, Any]:
    """For the access log."""
    used = [choice.call.usage for choice in answers]
    grants = [choice.call.grant for choice in answers]
    costs = [choice.call.cost for choice in answers]
    return {
        "granted": [[g.budget.thinking, g.budget.solution] for g in grants if g is not None],
        "prompt": used[0].prompt,
        "thinking": sum(one.thinking for one in used),
        "solution": sum(one.solution for one in used),
        "charged": sum(one.generated for one in used),
        "usd": float(sum(cost for cost in costs if cost is not None)),
    }


def _going() -> GatewayError:
    return GatewayError(503, "the gateway is shutting down: try again", "shutting_down", retry_after=1.0)


def _too_long(seconds: float) -> GatewayError:
    return GatewayError(504, f"the call took longer than {seconds:g} s; what it used is charged", "timeout")


async def _last_words(response: web.StreamResponse, error: GatewayError) -> None:
    """An error in the middle of a stream: an event, and no [DONE] after it."""
    try:
        async with asyncio.timeout(5.0):
            await response.write(f"data: {json.dumps(error.body())}\n\n".encode())
            await response.write_eof()
    except (ConnectionError, ClientError, TimeoutError):
        pass
