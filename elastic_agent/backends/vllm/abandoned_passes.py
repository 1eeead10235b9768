"""At most how much a vLLM server served of a pass that was abandoned before its end, by its own counters.

vLLM stops a request when its connection closes, and tells nobody how far the request had come. `/metrics`
bounds this, per engine and whoever else uses the server: a request gets at most one token a step. So a pass
was served at most as many tokens as there were steps (`iteration_tokens_total_count`), or tokens
(`generation_tokens_total`), from a scrape before the pass was sent to a scrape after the pass was over.

The end of the pass has to be seen, since a router between us may go on reading what nobody wants:

    idle           tokens of the pass have come, and now nothing runs or waits in the server
    server closed  the server closed its half of the connection too, and two scrapes have been answered since.
                   This counts only once this address has been seen to stop what is abandoned
                   (`stops_proven`): between two idle moments passes were abandoned, and no request ended but
                   those that we read to their end

What can't be seen is not guessed: the pass is then charged in full. This holds for a server without these
counters, for several servers behind one address (their counters name different processes), and for several
API processes in one server (their counters name none).
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextvars import Context
from dataclasses import dataclass, field

import aiohttp

from .engine_metrics import Scrape, parse_metrics

FRESH = 0.2
"""Seconds for which a scrape stands for the moment at which a pass is sent."""
SCRAPE_SECONDS = 2.0
"""Seconds that one scrape may take."""
BEFORE_SECONDS = 0.1
"""Seconds for which a pass waits for the scrape before it. After them an older scrape is used, whose bound is
wider."""
RETRY_SECONDS = 10.0
"""Seconds after a failed scrape in which no pass waits for one."""
SETTLE_SECONDS = 1.0
"""Seconds for which an abandoned pass waits to be seen over."""
SETTLE_SECONDS_IN_CALL = 0.25
"""The same while the call waits to go on with its next pass."""
POLL_SECONDS = 0.01
"""Seconds between two scrapes for a pass that isn't over; doubled each time."""
SHORT = 64
"""A pass that was abandoned with fewer tokens to go may have ended by itself: it proves nothing."""
UNCOUNTED_STEPS = 1
"""Steps whose tokens may have been handed out and not been counted yet."""
NO_CACHE = {"Cache-Control": "no-cache"}
LONGEST = 8 << 20
"""Bytes of a scrape."""


@dataclass(slots=True, eq=False)
class TrackedPass:
    """One pass, as the counters see it.

    Attributes:
        before: a scrape from before the pass was sent; None: none came in time.
        asked: tokens that the pass asked for.
        steps_ahead: at least so many steps had been made between that scrape and the sending.
        received: tokens of the pass that have come.
        reported: tokens that the server says at the end that it served.
        server_closed: the pass was abandoned, and the server has closed its half of the connection too.
        ended: `EngineCounters.end` was called.
    """

    before: Scrape | None
    asked: int
    steps_ahead: int = 0
    received: int = 0
    reported: int = 0
    server_closed: bool = False
    ended: bool = False


@dataclass(slots=True)
class _SinceIdle:
    """What became of our passes since the last idle moment, which `scrape` saw."""

    scrape: Scrape
    ended: int = 0
    tokens: int = 0
    abandoned: int = 0


@dataclass(slots=True)
class EngineCounters:
    """The counters of one server, for all passes of ours that it serves; in any event loop.

    Args:
        url: of its `/metrics`.

    Attributes:
        stops_proven: closing a connection was seen to stop the engine behind this address.
        unusable: why these counters tell nothing; "" where they do.
    """

    url: str
    stops_proven: bool = False
    unusable: str = ""
    _last: Scrape | None = None
    _steps_ahead: int = 0
    _since_idle: _SinceIdle | None = None
    _running: int = 0
    _failed_at: float = -math.inf
    _processes: list[str] = field(default_factory=list)
    _asking: dict[asyncio.AbstractEventLoop, tuple[float, asyncio.Task[Scrape | None]]] = field(
        default_factory=dict
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def begin(self, session: aiohttp.ClientSession, asked: int) -> TrackedPass:
        """Track a pass that asks for so many tokens and is about to be sent; `end` must follow."""
        now = time.monotonic()
        stale = self._last is None or now - self._last.asked_at > FRESH
        if not self.unusable and stale and now - self._failed_at > RETRY_SECONDS:
            await self._scrape(session, 0.0, BEFORE_SECONDS)
        with self._lock:
            self._running += 1
            return TrackedPass(self._last, asked, self._steps_ahead)

    def end(self, tracked: TrackedPass, *, by_itself: bool) -> None:
        """A pass is over for us: it ended by itself, was abandoned, or was never served. A second call does
        nothing."""
        with self._lock:
            if tracked.ended:
                return
            tracked.ended = True
            self._running -= 1
            if tracked.before is self._last:  # all of it was served since that scrape
                self._steps_ahead = max(
                    self._steps_ahead, tracked.steps_ahead + min(tracked.reported, tracked.received)
                )
            if (since := self._since_idle) is not None:
                since.ended += by_itself
                since.tokens += tracked.received
                long = tracked.received > 0 and tracked.asked - tracked.received >= SHORT
                since.abandoned += not by_itself and long

    async def bound(self, session: aiohttp.ClientSession, tracked: TrackedPass, seconds: float) -> int | None:
        """The most tokens that an abandoned pass can have been served; None: nobody can know.

        Its connection is closed, and `end` was called.

        Args:
            seconds: how long to wait at most until the pass is seen over.
        """
        since, until, pause, answered = time.monotonic(), time.monotonic() + seconds, POLL_SECONDS, 0
        while tracked.before is not None and (
            tracked.received or (self.stops_proven and tracked.server_closed)
        ):
            scrape = await self._scrape(session, since, until - time.monotonic())
            if scrape is None or self.unusable:
                break
            most, since, answered = scrape.since(tracked.before), time.monotonic(), answered + 1
            if most is not None and len(scrape.engines) == 1:
                most -= tracked.steps_ahead
            if most is None or most < tracked.received:  # another process's, or tokens that came twice
                self.stops_proven = False
                break
            if tracked.received and not scrape.busy:
                return min(most, tracked.asked)
            if self.stops_proven and tracked.server_closed and answered > 1:
                return min(most + UNCOUNTED_STEPS, tracked.asked)
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause *= 2
        return None

    # Scrapes

    async def _scrape(self, session: aiohttp.ClientSession, since: float, seconds: float) -> Scrape | None:
        """A scrape that was asked for at `since` or later; passes that want one at the same time share it."""
        loop, until = asyncio.get_running_loop(), time.monotonic() + seconds
        while time.monotonic() < until:
            asked, task = self._asking.get(loop, (0.0, None))
            if task is None or task.done():
                # In no caller's context: a task that lives on keeps alive what it can see
                task = loop.create_task(self._ask(session), context=Context())
                asked = time.monotonic()
                self._asking[loop] = asked, task
                task.add_done_callback(lambda done: self._asked(loop, done))
            await asyncio.wait([task], timeout=until - time.monotonic())
            if task.done() and asked >= since:
                return None if task.cancelled() else task.result()
        return None

    def _asked(self, loop: asyncio.AbstractEventLoop, done: asyncio.Task[Scrape | None]) -> None:
        if loop in self._asking and self._asking[loop][1] is done:
            del self._asking[loop]

    async def _ask(self, session: aiohttp.ClientSession) -> Scrape | None:
        asked, text = time.monotonic(), b""
        try:
            async with (
                asyncio.timeout(SCRAPE_SECONDS),
                session.get(self.url, allow_redirects=False, headers=NO_CACHE) as response,
            ):
                if response.status in (401, 403, 404, 405, 410, 501) or 300 <= response.status < 400:
                    self.unusable = f"{self.url} answers {response.status}"
                elif response.status == 200:
                    async for piece in response.content.iter_any():
                        text += piece
                        if len(text) > LONGEST:
                            break
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError):
            text = b""
        if not text.endswith(b"\n"):  # nothing, or a part: the last number would be another one
            self._failed_at = time.monotonic()
            return None
        scrape = parse_metrics(text.decode(errors="replace"), asked, time.monotonic())
        if scrape is None:
            self.unusable = f"{self.url} has no counters of one vLLM process"
        else:
            self._learn(scrape)
        return scrape

    def _learn(self, scrape: Scrape) -> None:
        """Learn from a scrape which process counts, and whether abandoned passes have stopped."""
        with self._lock:
            known = self._processes
            if not known or known[-1] != scrape.process:
                if scrape.process in known:
                    self.unusable = f"{self.url} is several servers"
                self._processes = [*known[-9:], scrape.process]
                self.stops_proven, self._since_idle = False, None  # it was started anew
            self._last, self._steps_ahead = scrape, 0
            if scrape.busy or self._running:
                return
            before, self._since_idle = self._since_idle, _SinceIdle(scrape)
            if before is None:
                return
            counted = scrape.tokens - before.scrape.tokens
            if counted < before.tokens:  # it does not count what it sends us
                self.stops_proven = False
            elif before.abandoned and scrape.ended - before.scrape.ended == before.ended:
                self.stops_proven = True
