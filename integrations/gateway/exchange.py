"""One request's answers, written: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError, web

from elastic_agent.integrations.gateway import choices as running
from elastic_agent.integrations.gateway.books import Payer
from elastic_agent.integrations.gateway.choices import Choice
from elastic_agent.integrations.gateway.config import Upstream
from elastic_agent.integrations.gateway.errors import GatewayError
from elastic_agent.integrations.gateway.plan import Plan
from elastic_agent.integrations.gateway.tasks import OpenTask
from elastic_agent.integrations.gateway.wire import Format, Said, budget, pairs
from elastic_agent.scheduler.report import Units


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

    async def stream(self, request: web.Request, response: web.StreamResponse) -> None:
        """Answer piece by piece. Until the first, `response` is not prepared: an error is an HTTP status."""
        form = self._format()

        async def send(events: Iterable[dict[str, Any]]) -> None:
            for event in events:
                name = f"event: {event['type']}\n" if "type" in event else ""
                await self._write(response, f"{name}data: {json.dumps(event)}\n\n")

        async with aclosing(running.run(self.answers)) as shown:
            async for choice, piece in shown:
                if not response.prepared:
                    response.headers["X-Elastic-Granted"] = self._granted()
                    await response.prepare(request)
                    await send(form.begin())
                if piece is None:
                    await send(form.end(choice))
                elif piece:
                    await send(form.piece(choice, piece))
        await send(form.finish())
        if form.done:
            await self._write(response, "data: [DONE]\n\n")
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
        }

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
        room = self.payer.desk.ledger.room(self.payer.durable.account())
        return Units.of(room, asyncio.get_running_loop().time()).to_dict()

    async def _write(self, response: web.StreamResponse, data: str) -> None:
        """Send something; a client that reads nothing for too long is given up."""
        try:
            async with asyncio.timeout(self.send_seconds) as timeout:
                await response.write(data.encode())
        except TimeoutError:
            if timeout.expired():
                raise ConnectionError("the client reads nothing") from None
            raise


def event_stream(id: str) -> web.StreamResponse:
    """The response of a stream, before its first piece."""
    return web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": id,
        }
    )


async def last_words(response: web.StreamResponse, error: GatewayError, *, named: bool) -> None:
    """An error in the middle of a stream: an event, named where the others are, and no [DONE] after it."""
    name = "event: error\n" if named else ""
    try:
        async with asyncio.timeout(5.0):
            await response.write(f"{name}data: {json.dumps(error.body())}\n\n".encode())
            await response.write_eof()
    except (ConnectionError, ClientError, TimeoutError):
        pass
