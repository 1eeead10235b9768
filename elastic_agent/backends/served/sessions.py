"""HTTP sessions of one server, one for each event loop, and the answers that are open on them."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncGenerator, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakSet

import aiohttp

from ..base import Receipt
from .connection import Connection

_KEEP_ALIVE = 2.0
"""Seconds that an unused connection is kept. vLLM closes it after 5 (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): a request
that is sent at that very moment is lost, and nobody can know whether it was served."""

_SESSIONS: WeakSet[Sessions] = WeakSet()


@atexit.register
def _at_exit() -> None:
    """Close open sessions, which would complain on standard error."""
    for sessions in list(_SESSIONS):
        sessions.close_idle()


class Sessions:
    """The sessions of one server. A request's `trace_request_ctx` is its receipt, which learns of the
    sending.

    Args:
        connection: headers of every request, and the proxy.
        timeout: of every request.

    Attributes:
        closed: nothing new is asked.
    """

    def __init__(self, connection: Connection, timeout: aiohttp.ClientTimeout) -> None:
        self.closed = False
        self._connection, self._timeout = connection, timeout
        self._sessions: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[Any]]]
        self._sessions = {}
        self._responses: dict[aiohttp.ClientResponse, asyncio.AbstractEventLoop] = {}
        _SESSIONS.add(self)

    async def here(self) -> aiohttp.ClientSession:
        """This event loop's session, with its open connections."""
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            await self._drop([other for other in list(self._sessions) if other.is_closed()])
            keeper = self._keeper(loop)
            self._sessions[loop] = (await anext(keeper), keeper)
        return self._sessions[loop][0]

    def track(self, response: aiohttp.ClientResponse) -> OpenResponse:
        """A context in which `aclose` breaks the response off."""
        return OpenResponse(self._responses, response)

    async def aclose(self) -> None:
        """Close the connections of this event loop; other loops' connections close with their loop."""
        self.closed = True
        running = asyncio.get_running_loop()
        for response in [one for one, loop in list(self._responses.items()) if loop is running]:
            # aiohttp lets a waiting reader wait on
            response.content.set_exception(aiohttp.ClientConnectionError("closed"))
        _, keeper = self._sessions.get(running, (None, None))
        if keeper is not None:
            await keeper.aclose()

    def close_idle(self) -> None:
        """Close what loops that don't run have left open; those of `asyncio.run` leave nothing."""
        for loop, (_, keeper) in list(self._sessions.items()):
            if not loop.is_running() and not loop.is_closed():
                loop.run_until_complete(keeper.aclose())
        if loops := [loop for loop in self._sessions if loop.is_closed()]:
            asyncio.run(self._drop(loops))

    async def _keeper(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession]:
        """Holds a session open as long as its event loop runs: `asyncio.run` closes, at its end, the
        generators that are still open."""
        # No limit of our own: a queue in the client would hide the engine's priorities
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_headers_sent)
        session = aiohttp.ClientSession(
            connector=connector,
            headers=self._connection.headers,
            proxy=self._connection.proxy,
            timeout=self._timeout,
            trace_configs=[trace],
        )
        try:
            yield session
        finally:
            self._sessions.pop(loop, None)
            await session.close()

    async def _drop(self, loops: Iterable[asyncio.AbstractEventLoop]) -> None:
        """Drop the sessions of closed loops, on which nothing can be awaited any more."""
        for loop in loops:
            session, _ = self._sessions.pop(loop)
            if session.connector is not None:
                await session.connector.close()
            session.detach()


class OpenResponse:
    """Has a response among those that `Sessions.aclose` breaks off, with its event loop.

    Not made of a generator: an event loop that ends closes every async generator, in any order.
    """

    def __init__(
        self,
        responses: dict[aiohttp.ClientResponse, asyncio.AbstractEventLoop],
        response: aiohttp.ClientResponse,
    ) -> None:
        self._responses, self._response = responses, response

    async def __aenter__(self) -> None:
        self._responses[self._response] = asyncio.get_running_loop()

    async def __aexit__(self, *_: object) -> None:
        del self._responses[self._response]


async def _headers_sent(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    """The request is about to be written: from here on the engine may be ahead of what has arrived."""
    if isinstance(context.trace_request_ctx, Receipt):
        context.trace_request_ctx.refused = False


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work`, which takes a second or two at most, whoever cancels us meanwhile: then the cancel
    comes afterwards."""
    task, interrupted = asyncio.ensure_future(work), cast("asyncio.CancelledError | None", None)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    task.result()
