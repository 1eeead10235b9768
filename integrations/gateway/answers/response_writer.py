"""Sends the answers of one request: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, cast

from aiohttp import ClientError, web
from multidict import CIMultiDict

from ..accounts.owner import Charge
from ..errors import GatewayError
from ..settings import Upstream
from . import choices as running
from .chat_format import Formatter, ResponseContent, budget, pairs
from .choices import Choice


class ResponseStream(Protocol):
    """A response that is sent in parts; `web.StreamResponse` is one."""

    @property
    def headers(self) -> CIMultiDict[str]: ...

    @property
    def prepared(self) -> bool: ...

    async def prepare(self, request: web.Request) -> Any: ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ResponseWriter:
    """Runs the calls of a request and sends their answers.

    Attributes:
        answers, logprobs, usage: see `ResponseContent`.
        charge: what is charged.
        send_seconds: that the client may take to read a part.
    """

    answers: list[Choice]
    make_formatter: Callable[[ResponseContent], Formatter]
    upstream: Upstream
    logprobs: bool
    usage: bool
    charge: Charge
    send_seconds: float

    async def whole(self) -> web.Response:
        """Run the calls to their end; the response with all of the answers."""
        async with aclosing(running.run(self.answers)) as deltas:
            async for _ in deltas:
                pass
        body = self._formatter().whole()
        used = self.answers[0].call.usage
        headers = {
            "X-Elastic-Granted": self._granted(),
            "X-Elastic-Used": pairs(
                {"thinking": used.thinking, "close": used.close, "solution": used.solution}
            ),
        }
        if body["budget"]["left"]:
            headers["X-Elastic-Left"] = pairs(body["budget"]["left"])
        return web.Response(text=json.dumps(body), content_type="application/json", headers=headers)

    async def stream(self, request: web.Request, response: ResponseStream) -> None:
        """Run the calls and send their answers as events.

        `response` is prepared with the first event: until then an error can still be an HTTP status.
        """
        formatter = self._formatter()

        async def send_all(events: Iterable[dict[str, Any]]) -> None:
            for event in events:
                name = f"event: {event['type']}\n" if "type" in event else ""
                data = f"{name}data: {json.dumps(event)}\n\n"
                await send(response, data.encode(), self.send_seconds)

        async with aclosing(running.run(self.answers)) as deltas:
            async for choice, delta in deltas:
                if not response.prepared:
                    response.headers["X-Elastic-Granted"] = self._granted()
                    await response.prepare(request)
                    await send_all(formatter.stream_start())
                if delta is None:
                    await send_all(formatter.answer_end(choice))
                elif delta:
                    await send_all(formatter.delta(choice, delta))
        await send_all(formatter.stream_end())
        if formatter.ends_with_done:
            await send(response, b"data: [DONE]\n\n", self.send_seconds)
        await response.write_eof()

    def facts(self) -> dict[str, Any]:
        """What the access log says about the calls."""
        used = [choice.call.usage for choice in self.answers]
        grants = [choice.call.grant for choice in self.answers]
        costs = [choice.call.cost for choice in self.answers]
        return {
            "granted": [[g.budget.thinking, g.budget.solution] for g in grants if g is not None],
            "prompt": used[0].prompt,
            "thinking": sum(one.thinking for one in used),
            "solution": sum(one.solution for one in used),
            "charged": sum(one.generated for one in used),
            "usd": float(sum(cost for cost in costs if cost is not None)),
            "passes": sum(one.passes for one in used),
        }

    def charged(self) -> dict[str, Any] | None:
        """What the request is charged although it has no answer; None: no model was asked."""
        facts = self.facts()
        if not facts["passes"]:
            return None
        return {"tokens": facts["charged"], "usd": facts["usd"], "requests": facts["passes"]}

    def _formatter(self) -> Formatter:
        name, codec = self.upstream.name, self.upstream.backend.codec
        content = ResponseContent(self.answers, name, codec, self.logprobs, self.usage, self._budget)
        return self.make_formatter(content)

    def _granted(self) -> str:
        grants = [choice.call.grant for choice in self.answers]
        return "; ".join(
            pairs({"thinking": grant.budget.thinking, "solution": grant.budget.solution})
            for grant in grants
            if grant is not None
        )

    def _budget(self, answers: Sequence[Choice]) -> dict[str, Any]:
        return budget(answers, self.charge.name, self.charge.left())


async def send(response: ResponseStream, data: bytes, seconds: float) -> None:
    """Send a part of a response.

    Raises:
        ConnectionError: the client has read nothing for `seconds`.
    """
    try:
        async with asyncio.timeout(seconds) as timeout:
            await response.write(data)
    except TimeoutError:
        if timeout.expired():
            raise ConnectionError("the client reads nothing") from None
        raise


async def send_error(response: ResponseStream, error: GatewayError, *, named: bool, route: str) -> None:
    """End a stream with an error: one event, without [DONE].

    Args:
        named: the stream's events are sent under their names.
        route: whose clients read the error.
    """
    name = "event: error\n" if named else ""
    try:
        async with asyncio.timeout(5.0):
            await response.write(f"{name}data: {json.dumps(error.body(route))}\n\n".encode())
            await response.write_eof()
    except (ConnectionError, ClientError, TimeoutError):
        pass


def event_stream(id: str) -> ResponseStream:
    """The response of a stream, not yet prepared; `id` is the request's."""
    return cast("ResponseStream", web.StreamResponse(headers=stream_headers(id)))


def stream_headers(id: str) -> dict[str, str]:
    """The headers of a stream; `id` is the request's."""
    return {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        "X-Request-Id": id,
    }
