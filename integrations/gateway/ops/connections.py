"""The connections of the gateway: how many there may be, which go first, and what they may see of each other.

Each connection is an open file, and a process has a limited number of these. So the gateway raises its soft
limit as far as it needs and may, keeps the number of connections below the limit, with room for what else it
opens (the ledger, connections to upstreams), and makes room before a new one needs it: the connection that
has brought nothing for the longest time goes. A connection is busy from when a request on it is whole, its
body too, until the answer is written; all others count as idle, however much they drip. aiohttp waits for a
request as long as it takes, so a sweep ends connections that were idle for too long.

aiohttp answers a request that it can't parse with the line that is wrong, and logs this line with a
traceback: a header with a stray byte in it would show a live key, an HTTP/2 preface the prompt behind it. Its
`RequestHandler` has one method for this, which is replaced here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from ..api.errors import GatewayError
from ..settings import Limits

log = logging.getLogger(__name__)

OTHER_FILES = 256
"""Files that the process may need beside its clients' connections and as many to upstreams."""
AT_ONCE = 64
"""Connections that are accepted before anything else is done."""
QUEUED = 1024
"""Connections that the system holds until they are accepted."""
READ_BYTES = 64 * 1024
"""Most bytes that are parsed at once."""
TOLD_SECONDS = 60.0
"""Between two lines of the log about files that have run out."""
BROKEN = (
    "this is no HTTP/1.1 request that can be read: a line of it is malformed or too long (a key with a line "
    "break at its end, say)"
)


def fitting_connections(wanted: int) -> int:
    """How many connections the machine's limit on open files allows, at most those that are wanted.

    The soft limit is raised first, as far as it is needed and the hard limit allows.
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


def queue_more(listening: Iterable[Any]) -> None:
    """Let the system hold more connections than asyncio accepts at a time: it takes both from one number."""
    for one in listening:
        with socket.socket(fileno=os.dup(one.fileno())) as same:
            same.listen(QUEUED)


class Guard:
    """Looks after the connections of a server.

    Args:
        limits: how long a connection may bring nothing.
        most: open connections.
    """

    def __init__(self, limits: Limits, most: int) -> None:
        self.limits, self.most = limits, most
        self._idle: dict[Connection, float] = {}  # since when; the oldest first
        self._busy: set[Connection] = set()
        self._told = float("-inf")

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._idle) + len(self._busy)

    def opened(self, connection: Connection) -> None:
        """A connection was accepted: where there are too many, the one that was idle for the longest ends."""
        self._idle[connection] = asyncio.get_running_loop().time()
        if self.connections > self.most:
            self.make_room(1)

    def begin(self, connection: Connection) -> None:
        """A request on it is whole.

        Raises:
            GatewayError: 503, too many requests run. A few connections are left for those who are told so.
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

    def end(self, connection: Connection) -> None:
        """A request on it was answered."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = asyncio.get_running_loop().time()

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def make_room(self, many: int) -> None:
        """End the connections that were idle for the longest."""
        for connection in list(self._idle)[:many] if many > 1 else [next(iter(self._idle))]:
            self._end(connection)

    def sweep(self) -> None:
        """End those that were idle for too long."""
        now = asyncio.get_running_loop().time()
        late = [one for one, since in self._idle.items() if now - since >= self.limits.idle_seconds]
        for connection in late:
            self._end(connection)

    def out_of_files(self) -> None:
        """No more connection could be accepted: make room, and say so once a minute."""
        now = asyncio.get_running_loop().time()
        self.make_room(len(self._idle) // 8 + 2)
        if now - self._told >= TOLD_SECONDS:
            self._told = now
            log.warning("no open file is left: idle connections were closed; raise ulimit -n")

    def _end(self, connection: Connection) -> None:
        self.closed(connection)
        if connection.transport is not None:
            connection.transport.abort()


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("guard",)

    def __init__(self, guard: Guard, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.guard = guard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # of a read; asyncio's is 256 KiB
        super().connection_made(transport)
        self.guard.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio."""
        self.guard.closed(self)
        super().connection_lost(exc)

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
    """An application whose connections are `Connection`s, looked after by a guard."""

    __slots__ = ("guard",)

    def __init__(self, app: web.Application, guard: Guard, **options: Any) -> None:
        super().__init__(app, **options)
        self.guard = guard

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            self.guard,
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


class _Server(web.Server):
    def __init__(self, guard: Guard, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._guard = guard

    def __call__(self) -> Connection:
        return Connection(self._guard, self, loop=self._loop, **self._kwargs)
