"""One pass on a llama.cpp server: posted, read event by event, and abandoned or read to its end.

A generation that ended at a text which no stop id wrote is gone on with: the rest is asked for, behind what
came. A pass that is abandoned is stopped by its closed connection; how far it had come stands in its slot
(`slots`). Where nothing is found there, the pass is charged in full.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import aiohttp

from ...errors import BackendError, BackendProtocolError, BackendUnavailableError
from ..base import Finish, Meter, TokenChunk, TokenRequest, confirm_send
from ..served.events import events_in
from ..served.server_info import read_error, unreachable
from ..served.sessions import Sessions, to_its_end
from .completion_wire import SEEDS, Event, event_of, request_body
from .slots import Sought, tokens_sampled

ONCE = {"Connection": "close"}
"""A header of each POST: the server closes kept connections as it likes, and a request that meets a closed
one may not be sent again."""


@dataclass(slots=True)
class Server:
    """One model on one server, as its passes see it.

    Attributes:
        model: what the model is called.
        url: of the server, without a slash at its end.
        texts: the server's text of each stop id that was asked for.
    """

    model: str
    url: str
    sessions: Sessions
    texts: dict[int, str] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)


class ServerPass:
    """One pass. A pass without a seed gets one of its own, by which its slot is known."""

    def __init__(self, server: Server, request: TokenRequest) -> None:
        self._server, self._traceable = server, request.sampling.seed is None
        if self._traceable:
            request = replace(request, sampling=replace(request.sampling, seed=secrets.randbelow(SEEDS)))
        self._request = request
        self._ids: list[int] = []
        self._cached: int | None = None

    async def stream(self) -> AsyncGenerator[TokenChunk]:
        """Run the pass; see `Backend.stream`."""
        request = self._request
        request.receipt.refused = True  # until its headers are sent: `Sessions`
        self._check_open()
        last: TokenChunk | None = None
        while last is None:
            before = len(self._ids)
            async with aclosing(self._generation()) as chunks:
                async for chunk in chunks:
                    if chunk.finish is None:
                        yield chunk
                    else:
                        last = chunk
            if last is None and len(self._ids) == before:
                raise BackendProtocolError(f"{self._server.model}: a generation ended before its first token")
        request.receipt.output = len(self._ids)
        yield last

    async def _generation(self) -> AsyncGenerator[TokenChunk]:
        """One generation of the server; a chunk with a finish ends the pass."""
        request, server = self._request, self._server
        prompt = (*request.prompt_ids, *self._ids)
        body = self._body(prompt)
        answered = ended = False
        try:
            session = await server.sessions.here()
            await confirm_send(request)
            try:
                async with (
                    session.post(
                        f"{server.url}/completion",
                        data=body,
                        headers={"Content-Type": "application/json", **ONCE},
                        trace_request_ctx=request.receipt,
                    ) as response,
                    server.sessions.track(response),
                ):
                    answered = True
                    if response.status >= 400:
                        ended = True
                        raise await self._error_in(response)
                    server.meter.requests += 1
                    server.meter.input += len(prompt)
                    first = len(self._ids)
                    async for data in events_in(response):
                        self._check_open()
                        event = self._take(event_of(data, request), first)
                        if event.predicted is None:
                            yield event.chunk
                            continue
                        ended = True
                        if (finish := self._finish(event)) is not None:
                            yield event.chunk._replace(finish=finish, cached=self._cached or 0)
                        return
                    raise self._broke_off()
            finally:
                if not ended and not request.receipt.refused and (answered or _cancelled()):
                    await to_its_end(self._look_up(session, prompt))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if request.receipt.refused:
                raise unreachable(error, server.url) from error
            raise self._broke_off(f": {error!r}") from error

    def _check_open(self) -> None:
        if self._server.sessions.closed:
            raise BackendUnavailableError(f"{self._server.model} has been closed")

    def _body(self, prompt: tuple[int, ...]) -> bytes:
        request = self._request
        stops = [self._server.texts[one] for one in request.stop_ids]
        try:
            return json.dumps(request_body(request, prompt, self._left, stops)).encode()
        except (TypeError, ValueError) as error:
            raise BackendError(
                f"{self._server.model}: the request can't be written as JSON: {error}"
            ) from error

    @property
    def _left(self) -> int:
        """Tokens that may still be sampled."""
        return self._request.max_tokens - len(self._ids)

    @property
    def _stopped(self) -> bool:
        """Whether the last token is a stop id."""
        return bool(self._ids) and self._ids[-1] in self._request.stop_ids

    def _take(self, event: Event, first: int) -> Event:
        """Count an event of a generation that began behind so many tokens."""
        model, ids = self._server.model, event.chunk.ids
        if ids and (self._stopped or not self._request.stop_ids.isdisjoint(ids[:-1])):
            raise BackendProtocolError(f"{model}: the server went on behind a stop token")
        if len(ids) > self._left:
            raise BackendProtocolError(f"{model}: more tokens came than were asked for")
        self._ids += ids
        self._server.meter.output += len(ids)
        came = len(self._ids) - first
        if event.predicted is not None and event.predicted != came:
            self._server.meter.output += max(0, event.predicted - came)
            raise BackendProtocolError(
                f"{model}: {came} tokens came, the server says that it sampled {event.predicted}"
            )
        if event.predicted is not None and self._cached is None:
            self._cached = event.chunk.cached
        return event

    def _finish(self, event: Event) -> Finish | None:
        """How the pass has ended with the last event of a generation; None: it has not."""
        if self._stopped:
            return "stop"
        if event.by_text and self._left:
            return None
        return "length" if event.by_text else event.chunk.finish

    async def _error_in(self, response: aiohttp.ClientResponse) -> BackendError:
        """An answer that is an error; the receipt says whether the engine ran its request."""
        url = f"{self._server.url}/completion"
        error, delivery = await read_error(response, url, self._server.model)
        self._request.receipt.refused = delivery.free and not self._ids
        return error

    def _broke_off(self, why: str = "") -> BackendUnavailableError:
        return BackendUnavailableError(
            f"{self._server.model}: the stream broke off after {len(self._ids)} tokens{why}"
        )

    async def _look_up(self, session: aiohttp.ClientSession, prompt: tuple[int, ...]) -> None:
        """Find out how much an abandoned generation served; the receipt says so."""
        if not self._traceable or self._server.sessions.closed:
            return
        came = len(self._ids) + len(self._request.prompt_ids) - len(prompt)
        asked = self._request.max_tokens - (len(self._ids) - came)
        seed = self._request.sampling.seed
        assert seed is not None
        sought = Sought(seed, asked, len(prompt))
        in_call = self._request.receipt.call_waits()
        found = await tokens_sampled(session, self._server.url, sought, in_call=in_call)
        if found is not None:
            self._request.receipt.output_bound = len(self._ids) + max(0, min(found, asked) - came)


def _cancelled() -> bool:
    """Whether this task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
