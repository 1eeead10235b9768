"""A live page for the schedulers of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from elastic_agent.scheduler.runlog.events import Event
from elastic_agent.validation import MOST_PORT, integer

from .feed import HEADERS, Feed

HOST = "127.0.0.1"


class LivePage:
    """A log that shows tasks in a browser: `BudgetScheduler(backend, log=[LivePage(8101)])`.

    It listens on 127.0.0.1 alone, in a thread of its own, from its making until `close` or the end of the
    process. Whoever can open a connection on this machine sees all tasks; no prompts and no answers.

    Args:
        port: where it listens; 0: any free port.

    Attributes:
        url: what to open.

    Raises:
        ValueError: the port is taken, or is none.
    """

    def __init__(self, port: int) -> None:
        integer("port", port, least=0, most=MOST_PORT)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
        except OSError as error:
            self._socket.close()
            raise ValueError(
                f"the live page can't listen on port {port} ({error.strerror}): take another, or 0 for any"
            ) from error
        self.port = self._socket.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}/ui"
        self._feed = Feed(lambda request: None, "scheduler")
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live page", daemon=True)
        self._thread.start()
        self._ready.wait()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._feed(event)

    def close(self) -> None:
        """Stop listening; pages that are open keep what they show."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._check_host])
        app.add_routes([*self._feed.routes(), web.get("/", _to_page)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        self._feed.start()
        self._ready.set()
        await self._end.wait()
        await self._feed.close()
        await runner.cleanup()

    @web.middleware
    async def _check_host(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse a page of somebody else's whose name was made to lead here, and requests from such pages."""
        hosts = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        origin = request.headers.get("Origin")
        if request.host not in hosts or (origin is not None and origin.partition("://")[2] not in hosts):
            return web.Response(status=403, text=f"this page is {self.url}\n", headers=HEADERS)
        return await handler(request)


async def _to_page(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/ui")
