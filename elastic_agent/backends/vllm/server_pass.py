"""One pass on a vLLM server: posted, read event by event, and abandoned or read to its end.

From the moment a request is written until its finish arrives, nobody here knows how far the engine has come.
When a stream is abandoned in between, the server's counters bound what it was served (`abandoned_passes`).
Where they don't, the receipt says so, and the call is charged in full. A request that never found a
connection is charged nothing; of an answer that is an error `elastic_agent.charging.delivery` says whether
the engine ran it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ...errors import BackendError, BackendProtocolError, BackendUnavailableError
from ..base import Meter, TokenChunk, TokenRequest, confirm_send
from ..served.events import events_in
from ..served.server_info import read_error, unreachable
from ..served.sessions import Sessions, to_its_end
from .abandoned_passes import SETTLE_SECONDS, SETTLE_SECONDS_IN_CALL, EngineCounters, TrackedPass
from .completions_wire import chunk_of, request_body, tokens_in, usage_of

_CLOSE_SECONDS, _CLOSE_SECONDS_IN_CALL = 0.5, 0.1
"""Seconds for a server to close its half of a connection after we have closed ours; the same while a call
waits to go on."""


@dataclass(slots=True)
class Server:
    """One model on one server, as its passes see it.

    Attributes:
        model: the name that the server serves it under.
        base_url: up to and with `/v1`.
    """

    model: str
    base_url: str
    sessions: Sessions
    counters: EngineCounters
    meter: Meter = field(default_factory=Meter)

    @property
    def completions(self) -> str:
        return f"{self.base_url}/completions"


class ServerPass:
    """One pass.

    Attributes:
        ids: the tokens that came.
    """

    def __init__(self, server: Server, request: TokenRequest) -> None:
        self.ids: list[int] = []
        self._server, self._request = server, request
        self._served = 0
        self._last: TokenChunk | None = None
        self._tracked: TrackedPass | None = None

    async def stream(self) -> AsyncGenerator[TokenChunk]:
        """Run the pass; see `Backend.stream`."""
        server, receipt = self._server, self._request.receipt
        receipt.refused = True  # until its headers are sent: `Sessions`
        self._check_open()
        try:
            session = await server.sessions.here()
            self._tracked = await server.counters.begin(session, self._request.max_tokens)
            posted = await self._post_and_wait(session, self._tracked)
            async with posted as response, server.sessions.track(response):
                if response.status >= 400:
                    raise await self._error_in(response)
                self._count_request()
                try:
                    async for event in events_in(response):
                        self._check_open()
                        chunk = self._take(event, self._tracked)
                        if chunk is not None:
                            yield chunk
                finally:
                    server.counters.end(self._tracked, by_itself=self._last is not None)
                    if self._last is None:
                        await to_its_end(self._abandon(session, response, self._tracked))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if receipt.refused:
                raise unreachable(error, server.base_url) from error
            if self._last is None:
                raise self._broke_off(f": {error!r}") from error
        finally:
            if self._tracked is not None:
                server.counters.end(self._tracked, by_itself=self._last is not None)
        if self._last is None:
            raise self._broke_off()
        receipt.output = self._served
        yield self._last

    def _check_open(self) -> None:
        if self._server.sessions.closed:
            raise BackendUnavailableError(f"{self._server.model} has been closed")

    def _broke_off(self, why: str = "") -> BackendUnavailableError:
        return BackendUnavailableError(
            f"{self._server.model}: the stream broke off after {self._served} tokens{why}"
        )

    def _count_request(self) -> None:
        self._server.meter.requests += 1
        self._server.meter.input += len(self._request.prompt_ids)

    # Reading

    def _take(self, event: dict[str, Any], tracked: TrackedPass) -> TokenChunk | None:
        """Count an event; its chunk, if it brings one that is not the last."""
        chunk = chunk_of(event, self._request)
        if chunk is not None:
            tracked.received += tokens_in(event)
            self._count(chunk)
            if chunk.finish is None:
                return chunk
            self._last = chunk  # the usage comes with it or after it
        if self._last is not None and event.get("usage"):
            self._last = self._with_usage(self._last, event["usage"], tracked)
        return None

    def _count(self, chunk: TokenChunk) -> None:
        model, asked = self._server.model, self._request.max_tokens
        if self._last is not None:
            raise BackendProtocolError(f"{model}: more tokens after the finish")
        self._served += len(chunk.ids)
        self.ids += chunk.ids
        self._server.meter.output += len(chunk.ids)
        if self._served > asked:
            raise BackendProtocolError(f"{model}: {self._served} tokens came, {asked} were asked for")

    def _with_usage(self, last: TokenChunk, usage: Any, tracked: TrackedPass) -> TokenChunk:
        """The last chunk with the cache hits that the usage reports; the meter takes the larger count."""
        output, cached = usage_of(usage, self._request)
        if 0 < output < tracked.received:  # something between us sent a part of it twice
            raise BackendProtocolError(
                f"{self._server.model}: {tracked.received} tokens came, the server says that it "
                f"served {output}"
            )
        tracked.reported = output
        self._server.meter.output += max(0, output - self._served)
        self._served = max(self._served, output)
        return TokenChunk(last.ids, last.logprobs, last.finish, cached)

    async def _error_in(self, response: aiohttp.ClientResponse) -> BackendError:
        """An answer that is an error; the receipt says whether the engine ran its request."""
        error, delivery = await read_error(response, self._server.completions, self._server.model)
        self._request.receipt.refused = delivery.free
        return error

    # Posting

    async def _post_and_wait(
        self, session: aiohttp.ClientSession, tracked: TrackedPass
    ) -> aiohttp.ClientResponse:
        """Send the request and wait for its answer to begin.

        Cancelled meanwhile, the pass is abandoned as soon as its answer begins: a request that was sent and
        not answered may be served, and nobody could know how far.
        """
        posting = asyncio.ensure_future(self._post(session))
        try:
            return await asyncio.shield(posting)
        except asyncio.CancelledError:
            await to_its_end(self._abandon_unanswered(session, posting, tracked))
            raise

    async def _post(self, session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
        """Send the request; once more where a kept connection was found closed before a byte was written."""
        request, server = self._request, self._server
        try:
            body = json.dumps(request_body(server.model, request)).encode()
        except (TypeError, ValueError) as error:
            raise BackendError(f"{server.model}: the request can't be written as JSON: {error}") from error
        await confirm_send(request)
        try:
            return await self._send(session, body)
        except aiohttp.ClientOSError as error:
            if not isinstance(error.__cause__, aiohttp.ClientConnectionResetError):
                raise
            request.receipt.refused = True
            await confirm_send(request)
            return await self._send(session, body)

    async def _send(self, session: aiohttp.ClientSession, body: bytes) -> aiohttp.ClientResponse:
        headers = {"Content-Type": "application/json"}
        receipt = self._request.receipt
        return await session.post(
            self._server.completions, data=body, headers=headers, trace_request_ctx=receipt
        )

    # Abandoning

    async def _abandon(
        self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse, tracked: TrackedPass
    ) -> None:
        """Close a stream before its end, and find out how much it was served at most.

        Only our half is closed first. What had been sent still comes, and when the server closes the other
        half it has seen that we left, and stops. Over TLS there are no halves.
        """
        server, receipt = self._server, self._request.receipt
        call_waits, connection = receipt.call_waits(), response.connection
        transport = None if connection is None else connection.transport
        if connection is not None and connection.protocol is not None:
            connection.protocol.force_close()  # however it ends, no later request takes half a connection
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            try:
                transport.write_eof()
                async with asyncio.timeout(_CLOSE_SECONDS_IN_CALL if call_waits else _CLOSE_SECONDS):
                    async for event in events_in(response):
                        tracked.received += tokens_in(event)
                        server.meter.output += tokens_in(event)
            except aiohttp.ClientPayloadError:
                tracked.server_closed = True  # the answer ends without its end
            except (aiohttp.ClientError, TimeoutError, OSError, BackendError, RuntimeError):
                pass
        response.close()
        if not server.sessions.closed:
            seconds = SETTLE_SECONDS_IN_CALL if call_waits else SETTLE_SECONDS
            receipt.output_bound = await server.counters.bound(session, tracked, seconds)

    async def _abandon_unanswered(
        self,
        session: aiohttp.ClientSession,
        posting: asyncio.Future[aiohttp.ClientResponse],
        tracked: TrackedPass,
    ) -> None:
        """Abandon a pass whose answer has not begun."""
        if tracked.before is not None and not self._request.receipt.refused:
            await asyncio.wait([posting], timeout=_CLOSE_SECONDS)
        posting.cancel()
        await asyncio.wait([posting])
        if posting.cancelled() or posting.exception() is not None:
            return
        response = posting.result()
        if response.status >= 400:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with response, asyncio.timeout(_CLOSE_SECONDS):
                    await self._error_in(response)
            return
        self._count_request()
        self._server.counters.end(tracked, by_itself=False)
        await self._abandon(session, response, tracked)
