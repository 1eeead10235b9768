"""The clients' connections: how many may be open, which are closed first, and what errors may show.

Each connection is an open file, and a process may open a limited number of files. So the gateway raises its
soft limit as far as it needs and may, and keeps its connections below the limit, with room for its other
files (the ledger, connections to upstreams). For a new connection beyond the limit, the connection that was
idle for the longest time is closed. A connection is busy from the end of a request, its body included, until
the answer is written, and otherwise idle, also while a request trickles in. aiohttp waits for a request
without limit, so a sweep closes connections that were idle for too long.

aiohttp answers a request that it can't parse with the wrong line, and logs the line, which may hold a key (in
a header with a stray byte) or a prompt (behind an HTTP/2 preface). So `handle_error` is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from itertools import islice
from typing import Any

from aiohttp import web

from ..errors import GatewayError
from ..settings import Limits

log = logging.getLogger(__name__)

OTHER_FILES = 256
"""Files that the process may need beside its clients' connections and as many connections to upstreams."""
ACCEPTED_AT_ONCE = 64
"""Connections that asyncio accepts before it does anything else."""
BACKLOG = 1024
"""Connections that the system holds until they are accepted."""
READ_BYTES = 64 * 1024
"""Most bytes that are parsed at once."""
WARN_SECONDS = 60.0
"""Between two warnings that no open file is left."""
BROKEN_REQUEST = (
    "this is no HTTP/1.1 request that can be read: a line of it is malformed or too long (a key with a line "
    "break at its end, say)"
)


def fitting_connections(wanted: int) -> int:
    """The number of connections that the limit on open files allows, at most `wanted`.

    First raises the soft limit, as far as needed and as the hard limit allows.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    found = max((soft - OTHER_FILES) // 2, soft // 4, 1)
    log.warning("%s open files allow %s connections, not %s: raise ulimit -n", soft, found, wanted)
    return found


def http_options(limits: Limits) -> dict[str, Any]:
    """aiohttp's options for a new connection."""
    return {
        "keepalive_timeout": limits.idle_seconds,
        "max_line_size": limits.line,
        "max_field_size": limits.line,
        "max_headers": limits.headers,
    }


def raise_backlog(listening: Iterable[Any]) -> None:
    """Let the system hold BACKLOG connections: asyncio uses one number for this and for accepting at once."""
    for one in listening:
        with socket.socket(fileno=os.dup(one.fileno())) as same:
            same.listen(BACKLOG)


class ConnectionLimiter:
    """Closes connections: the idlest one for a new one beyond the limit, and all that were idle for too long.

    Args:
        limits: how long a connection may be idle.
        most: open connections.
    """

    def __init__(self, limits: Limits, most: int) -> None:
        self.limits, self.most = limits, most
        self._idle: dict[ClientConnection, float] = {}  # since when; the longest first
        self._busy: set[ClientConnection] = set()
        self._warned = float("-inf")

    @property
    def open(self) -> int:
        """How many are open."""
        return len(self._idle) + len(self._busy)

    def opened(self, connection: ClientConnection) -> None:
        """Note a new connection; beyond the limit, close the one that was idle for the longest."""
        self._idle[connection] = asyncio.get_running_loop().time()
        if self.open > self.most:
            self.close_idlest(1)

    def begin(self, connection: ClientConnection) -> None:
        """Note that a request has arrived in full: its connection is busy.

        Raises:
            GatewayError: 503, too many connections are busy. A few are left for clients that get this error.
        """
        if connection not in self._idle:
            return
        if len(self._busy) >= self.most - max(1, self.most // 16):
            raise GatewayError(
                503,
                "the gateway has too many connections: try again soon",
                "too_many_connections",
                retry_after=1.0,
            )
        del self._idle[connection]
        self._busy.add(connection)

    def end(self, connection: ClientConnection) -> None:
        """Note that a request was answered: its connection is idle."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = asyncio.get_running_loop().time()

    def closed(self, connection: ClientConnection) -> None:
        """Note that a connection has ended."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def close_idlest(self, many: int) -> None:
        """Close the connections that were idle for the longest."""
        for connection in list(islice(self._idle, many)):
            self._abort(connection)

    def sweep(self) -> None:
        """Close the connections that were idle for too long."""
        now = asyncio.get_running_loop().time()
        late = [one for one, since in self._idle.items() if now - since >= self.limits.idle_seconds]
        for connection in late:
            self._abort(connection)

    def out_of_files(self) -> None:
        """Close idle connections, because the system has no open file left; warn once a minute."""
        now = asyncio.get_running_loop().time()
        self.close_idlest(len(self._idle) // 8 + 2)
        if now - self._warned >= WARN_SECONDS:
            self._warned = now
            log.warning("no open file is left: idle connections were closed; raise ulimit -n")

    def _abort(self, connection: ClientConnection) -> None:
        self.closed(connection)
        if connection.transport is not None:
            connection.transport.abort()


class ClientConnection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("limiter",)

    def __init__(self, limiter: ConnectionLimiter, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.limiter = limiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # of a read; asyncio's is 256 KiB
        super().connection_made(transport)
        self.limiter.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        self.limiter.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that is no HTTP; the connection is closed after it."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of an answer was sent already")
        failed = GatewayError(500, "the gateway failed", "internal_error")
        response = (
            failed if status >= 500 else GatewayError(status, BROKEN_REQUEST, "broken_request")
        ).response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log nothing: aiohttp would quote the request."""


def mark_busy(request: web.Request) -> None:
    """Note that all of a request has arrived: its connection isn't closed to make room for others.

    Raises:
        GatewayError: 503, too many connections are busy.
    """
    if isinstance(request.protocol, ClientConnection):
        request.protocol.limiter.begin(request.protocol)


def mark_idle(request: web.Request) -> None:
    """Note that a request was answered."""
    if isinstance(request.protocol, ClientConnection):
        request.protocol.limiter.end(request.protocol)


class LimitedRunner(web.AppRunner):
    """Runs an application whose connections are `ClientConnection`s under a limiter."""

    __slots__ = ("limiter",)

    def __init__(self, app: web.Application, limiter: ConnectionLimiter, **options: Any) -> None:
        super().__init__(app, **options)
        self.limiter = limiter

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            self.limiter,
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


class _Server(web.Server):
    def __init__(self, limiter: ConnectionLimiter, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limiter = limiter

    def __call__(self) -> ClientConnection:
        options = self._kwargs | http_options(self._limiter.limits)
        return ClientConnection(self._limiter, self, loop=self._loop, **options)
