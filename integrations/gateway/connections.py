"""The connections of the gateway: what can't be parsed is answered in JSON, and told to nobody else.

aiohttp answers a request that it can't parse with the line that is wrong, and logs this line with a
traceback: a header with a stray byte in it would show a live key, an HTTP/2 preface the prompt behind it. Its
`RequestHandler` has one method for this, which is replaced here.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from elastic_agent.integrations.gateway.errors import GatewayError

BROKEN = (
    "this is no HTTP/1.1 request that can be read: a line of it is malformed or too long (a key with a line "
    "break at its end, say)"
)


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that is no HTTP; the connection ends with it."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of an answer was sent already")
        failed = GatewayError(500, "the gateway failed", "internal_error")
        response = (failed if status >= 500 else GatewayError(status, BROKEN, "broken_request")).response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Nothing: what aiohttp would quote is the client's."""


class Runner(web.AppRunner):
    """An application whose connections are `Connection`s."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)
