"""Listens on a port, and serves an application on limited connections."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from aiohttp import web

from .connections import ACCEPTED_AT_ONCE, ConnectionLimiter, LimitedRunner, raise_backlog


class Listener:
    """The listening socket of an application, between `start` and `close`.

    Args:
        limiter: closes connections, and knows the limits of new ones.
    """

    def __init__(self, app: web.Application, limiter: ConnectionLimiter) -> None:
        self._limiter = limiter
        self._loops_handler: Any = None
        self._runner = LimitedRunner(
            app,
            limiter,
            handler_cancellation=True,  # a client that leaves stops its calls
            access_log=None,
            shutdown_timeout=5.0,
            lingering_time=1.0,  # for the rest of a body that isn't read
            auto_decompress=False,  # a few compressed bytes would become many: see `json_body`
        )

    async def start(self, host: str, port: int, bound: socket.socket | None = None) -> str:
        """Listen; returns the address of the server, like http://127.0.0.1:8100.

        Args:
            bound: listens already, instead of a new socket for `host` and `port`.

        Raises:
            OSError: the port is taken.
        """
        await self._runner.setup()
        self._handle_missing_files()
        site: web.TCPSite | web.SockSite = (
            web.TCPSite(self._runner, host, port, backlog=ACCEPTED_AT_ONCE)
            if bound is None
            else web.SockSite(self._runner, bound, backlog=ACCEPTED_AT_ONCE)
        )
        await site.start()
        raise_backlog(site._server.sockets if isinstance(site._server, asyncio.Server) else ())
        return _http(*self._runner.addresses[0][:2])

    async def stop_accepting(self) -> None:
        """Accept no more connections."""
        for site in list(self._runner.sites):
            await site.stop()

    async def close(self) -> None:
        """Close all connections."""
        await self._runner.cleanup()

    def restore_loop(self) -> None:
        """Give the event loop back its exception handler."""
        asyncio.get_running_loop().set_exception_handler(self._loops_handler)

    def _handle_missing_files(self) -> None:
        """Close idle connections where the system has no open file for a new one.

        asyncio reports each such connection to the loop's exception handler, thousands in a moment.
        """
        loop = asyncio.get_running_loop()
        before = self._loops_handler = loop.get_exception_handler()

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                self._limiter.out_of_files()
            elif before is not None:
                before(loop, context)
            else:
                loop.default_exception_handler(context)

        loop.set_exception_handler(handle)


def listening_sockets(host: str, port: int, many: int) -> list[socket.socket]:
    """Sockets on one address, over which the system spreads connections once they listen; port 0: a free one.

    Raises:
        OSError: the port is taken. That others on the port share it, too, does not make it free.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(address)
    found: list[socket.socket] = []
    for _ in range(many):
        found.append(socket.socket(family, kind, protocol))
        found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found[-1].bind(address)
        address = found[-1].getsockname()  # port 0 was a free one: the others take the same
    return found


def address_of(bound: socket.socket) -> str:
    """The address of a server on a socket, like http://127.0.0.1:8100."""
    return _http(*bound.getsockname()[:2])


def _http(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
