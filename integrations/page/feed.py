"""Events in, server-sent events out; and the page's files.

`Feed` is a log of the scheduler: called under the ledger's lock, it only appends to a queue. What folds the
queue and writes to readers runs on one event loop. A reader gets what changed, a few times a second. One that
does not read is dropped, so a page never slows a call.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from typing import Literal

from aiohttp import web

from elastic_agent.scheduler.runlog.events import Event

from .view import View

PAUSE = 0.25
"""Seconds between two looks at what changed."""
QUIET = 10.0
"""Seconds after which a reader to whom nothing was sent gets a comment: a connection that died shows."""
SEND_SECONDS = 5.0
"""For which a reader may leave a message unread."""
MOST_READERS = 32
MOST_QUEUED = 200_000

PAGE = {"/ui": "page.html"} | {
    f"/ui/{name}": name for name in ("theme.css", "page.css", "page.js", "icon.svg")
}
"""The static files by path: they need no key, and show nothing about any client."""
EVENTS = "/ui/events"
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Whose = Callable[[web.Request], str | None]
Place = Literal["scheduler", "gateway", "gateway-with-keys"]
"""Where a page is: what it says while there is no task, and whether it asks for a key."""


class Feed:
    """See the module.

    Args:
        whose: the owner whose tasks a request may see; None: all.
        place: where the page is.
        owner_of: see `View`.
    """

    def __init__(self, whose: Whose, place: Place, owner_of: Callable[[str], str] = str) -> None:
        self.view = View(owner_of)
        self._place = place
        self._whose = whose
        self._queue: deque[Event] = deque(maxlen=MOST_QUEUED)
        self._folding: asyncio.Task[None] | None = None
        self._closed = False
        self.readers = 0

    def __call__(self, event: Event) -> None:
        """Take an event, from any thread."""
        self._queue.append(event)

    def start(self) -> None:
        """Fold what comes, on the running loop."""
        self._folding = asyncio.ensure_future(self._fold_on())

    async def close(self) -> None:
        """End all readers."""
        self._closed = True
        if self._folding is not None:
            self._folding.cancel()
            with suppress(asyncio.CancelledError):
                await self._folding
        for _ in range(20):
            if not self.readers:
                break
            await asyncio.sleep(PAUSE / 5)

    def routes(self) -> list[web.RouteDef]:
        """The page under `/ui`."""
        static = [web.get(path, _file(name, self._place)) for path, name in PAGE.items()]
        return [*static, web.get(EVENTS, self.events)]

    async def events(self, request: web.Request) -> web.StreamResponse:
        """`/ui/events`: what changed, as server-sent events, until the reader leaves."""
        if self.readers >= MOST_READERS:
            return web.Response(status=503, text=f"{MOST_READERS} pages are open here: close one\n")
        owner = self._whose(request)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        self.readers += 1
        try:
            await response.prepare(request)
            with suppress(TimeoutError, ConnectionError):
                await self._send_changes(response, owner)
            if not self._closed and request.transport is not None:
                request.transport.abort()  # what it did not read must not be kept
        finally:
            self.readers -= 1
        return response

    async def _send_changes(self, response: web.StreamResponse, owner: str | None) -> None:
        since, sent = -1, time.monotonic()
        while not self._closed:
            now = time.monotonic()
            self._fold(now)
            text = b""
            if since != self.view.version:
                changes = self.view.changes(owner, since, now)
                since = self.view.version
                text = b"data: " + json.dumps(changes).encode() + b"\n\n"
            elif now - sent > QUIET:
                text = b": still here\n\n"
            if text:
                async with asyncio.timeout(SEND_SECONDS):
                    await response.write(text)
                sent = now
            await asyncio.sleep(PAUSE)

    async def _fold_on(self) -> None:
        while True:
            now = time.monotonic()
            self._fold(now)
            self.view.age(now)
            await asyncio.sleep(PAUSE)

    def _fold(self, now: float) -> None:
        for _ in range(len(self._queue)):
            self.view.apply(self._queue.popleft(), now)


def _file(name: str, place: Place) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = files(__package__).joinpath("static", name).read_bytes()
    body = body.replace(b"<body>", f'<body data-place="{place}">'.encode())
    kind = TYPES[name.rpartition(".")[2]]

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    return handler
