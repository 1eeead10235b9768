"""One request's answers, written: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, cast

from aiohttp import ClientError, web
from multidict import CIMultiDict

from elastic_agent.scheduler.runlog.report import Units

from ..accounts.accounts import Payer
from ..accounts.tasks import OpenTask
from ..api.chat_format import Format, Said, budget, pairs
from ..api.errors import GatewayError
from ..settings import Upstream
from . import choices as running
from .choices import Choice
from .plan import Plan


class Stream(Protocol):
    """What is asked of a response that is sent piece by piece."""

    @property
    def headers(self) -> CIMultiDict[str]: ...

    @property
    def prepared(self) -> bool: ...

    async def prepare(self, request: web.Request) -> Any: ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is asked, of whom, and who pays.

    Attributes:
        answers: the calls.
        asked: the request.
        form: the endpoint's way of writing.
        payer: the account.
        named: the task that the request names, if it does.
        send_seconds: that the client may take to read a piece.
    """

    answers: list[Choice]
    asked: Plan
    upstream: Upstream
    form: Callable[[Said], Format]
    payer: Payer
    named: OpenTask | None
    send_seconds: float

    async def whole(self) -> web.Response:
        """Run to the end, and answer with all of it."""
        async with aclosing(running.run(self.answers)) as shown:
            async for _ in shown:
                pass
        body = self._format().whole()
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

    async def stream(self, request: web.Request, response: Stream) -> None:
        """Answer piece by piece. Until the first, `response` is not prepared: an error is an HTTP status."""
        form = self._format()

        async def tell(events: Iterable[dict[str, Any]]) -> None:
            for event in events:
                name = f"event: {event['type']}\n" if "type" in event else ""
                data = f"{name}data: {json.dumps(event)}\n\n"
                await send(response, data.encode(), self.send_seconds)

        async with aclosing(running.run(self.answers)) as shown:
            async for choice, piece in shown:
                if not response.prepared:
                    response.headers["X-Elastic-Granted"] = self._granted()
                    await response.prepare(request)
                    await tell(form.begin())
                if piece is None:
                    await tell(form.end(choice))
                elif piece:
                    await tell(form.piece(choice, piece))
        await tell(form.finish())
        if form.done:
            await send(response, b"data: [DONE]\n\n", self.send_seconds)
        await response.write_eof()

    def facts(self) -> dict[str, Any]:
        """For the access log."""
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
        """What a request is charged that brought no answer; None: nothing was asked of a model."""
        facts = self.facts()
        if not facts["passes"]:
            return None
        return {"tokens": facts["charged"], "usd": facts["usd"], "requests": facts["passes"]}

    def _format(self) -> Format:
        asked = self.asked
        return self.form(
            Said(
                self.answers,
                self.upstream.name,
                self.upstream.backend.codec,
                asked.sampling.logprobs,
                asked.usage,
                self._budget,
            )
        )

    def _granted(self) -> str:
        grants = [choice.call.grant for choice in self.answers]
        return "; ".join(
            pairs({"thinking": grant.budget.thinking, "solution": grant.budget.solution})
            for grant in grants
            if grant is not None
        )

    def _budget(self, answers: Sequence[Choice]) -> dict[str, Any]:
        return budget(answers, self.named.id if self.named else None, self._left())

    def _left(self) -> dict[str, float]:
        """What is left of the task, or of the key, as far as this process knows."""
        if self.named is not None:
            return self.named.task.left.to_dict()
        assert self.payer.durable is not None
        room = self.payer.dispatcher.ledger.room(self.payer.durable.account())
        return Units.of(room, asyncio.get_running_loop().time()).to_dict()


async def send(response: Stream, data: bytes, seconds: float) -> None:
    """Send something; a client that reads nothing for so long is given up.

    Raises:
        ConnectionError: it was.
    """
    try:
        async with asyncio.timeout(seconds) as timeout:
            await response.write(data)
    except TimeoutError:
        if timeout.expired():
            raise ConnectionError("the client reads nothing") from None
        raise


def event_stream(id: str) -> Stream:
    """The response of a stream, before its first piece."""
    return cast("Stream", web.StreamResponse(headers=stream_headers(id)))


def stream_headers(id: str) -> dict[str, str]:
    """Of a stream."""
    return {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        "X-Request-Id": id,
    }


async def last_words(response: Stream, error: GatewayError, *, named: bool) -> None:
    """An error in the middle of a stream: an event, named where the others are, and no [DONE] after it."""
    name = "event: error\n" if named else ""
    try:
        async with asyncio.timeout(5.0):
            await response.write(f"{name}data: {json.dumps(error.body())}\n\n".encode())
            await response.write_eof()
    except (ConnectionError, ClientError, TimeoutError):
        pass
