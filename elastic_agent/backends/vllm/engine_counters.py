"""What a vLLM server's own counters say of a pass that was left before its end: at most how much it served.

vLLM stops a request when its connection closes, and tells nobody how far the request had come. `/metrics`
bounds it, per engine and whoever else uses the server: a request gets at most one token a step, so a pass
was served at most as many tokens as there were steps (`iteration_tokens_total_count`), or tokens
(`generation_tokens_total`), from a reading before the pass was sent to a reading after it was over.

That it is over has to be seen, since a router between us may go on reading what nobody wants:

    quiet     tokens of it have come, and now nothing runs or waits in the server
    noticed   the server closed its half of the connection too, and two readings have been answered since.
              That counts only once this address has been seen to stop what is left (`proven`): between two
              quiet moments passes were left, and no request ended but those that we read to their end

What can't be seen is not guessed: the pass is then charged in full. So it is with a server without these
counters, with several servers behind one address (their counters name different processes), and with several
API processes in one server (theirs name none).
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field

import aiohttp

FRESH = 0.2
"""Seconds for which a reading stands for the moment at which a pass is sent."""
READ_SECONDS = 2.0
"""For one reading."""
BEFORE_SECONDS = 0.1
"""For which a pass waits for the reading before it. Then an older one has to do, whose bound is wider."""
AGAIN_SECONDS = 10.0
"""After a reading that failed no pass waits for one for so long."""
SETTLE_SECONDS = 1.0
"""For which a pass that was left waits to be seen over."""
HURRY_SECONDS = 0.25
"""The same while its call goes on with the next pass, which waits."""
POLL_SECONDS = 0.01
"""Between two readings of a pass that isn't over, doubled each time."""
SHORT = 64
"""A pass that was left with fewer tokens to go may have ended by itself: it proves nothing."""
BEHIND = 1
"""Steps of which the tokens may have been handed out and not been counted yet."""
ANEW = {"Cache-Control": "no-cache"}
LONGEST = 8 << 20
"""Bytes of a reading."""

_TOKENS, _STEPS = "vllm:generation_tokens_total", "vllm:iteration_tokens_total_count"
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_ENDED, _DRAFTS = "vllm:request_success_total", "vllm:spec_decode_num_drafts_total"
_PROCESS = ("process_start_time_seconds", "vllm:generation_tokens_created")


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment.

    Attributes:
        asked, came: when it was asked for and when it came, by `time.monotonic`.
        process: names the process that counts; "" where nothing does.
        engines: (tokens, steps) by engine, since it started.
        busy: requests that run or wait.
        ended: requests that ended by themselves, since it started.
        one_a_step: a request gets at most one token a step.
    """

    asked: float
    came: float
    process: str
    engines: Mapping[str, tuple[int, int]]
    busy: int
    ended: int
    one_a_step: bool

    @property
    def tokens(self) -> int:
        """Of all engines."""
        return sum(tokens for tokens, _ in self.engines.values())

    def since(self, before: Reading) -> int | None:
        """The most tokens that one request can have got since; None if the two can't be compared."""
        if self.process != before.process or set(self.engines) != set(before.engines):
            return None
        most = 0
        for engine, (tokens, steps) in self.engines.items():
            more_tokens, more_steps = (
                a - b for a, b in zip((tokens, steps), before.engines[engine], strict=True)
            )
            if min(more_tokens, more_steps) < 0:
                return None
            most = max(most, min(more_tokens, more_steps) if self.one_a_step else more_tokens)
        return most


def parse(text: str, asked: float = 0.0, came: float = 0.0) -> Reading | None:
    """A reading out of Prometheus' text; None where it is not vLLM's, or lacks what is needed."""
    engines: dict[str, dict[str, int]] = {}
    process, busy, ended, seen, one_a_step = "", 0, 0, set[str](), True
    for line in text.splitlines():
        name, _, labels = line.partition("{")
        name = name.partition(" ")[0]
        if name in _PROCESS:
            process += line
        if not name.startswith("vllm:"):
            continue
        if name == _DRAFTS:
            one_a_step = False
        if name not in (_TOKENS, _STEPS, _RUNNING, _WAITING, _ENDED):
            continue
        try:
            value = float(line.rpartition(" ")[2])
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
        seen.add(name)
        if name in (_TOKENS, _STEPS):
            engine = labels.partition('engine="')[2].partition('"')[0]
            counts = engines.setdefault(engine, {})
            counts[name] = counts.get(name, 0) + int(value)
        elif name == _ENDED:
            ended += 0 if 'finished_reason="abort"' in labels else int(value)
        else:
            busy += int(value)
    if not {_TOKENS, _STEPS, _RUNNING, _WAITING, _ENDED} <= seen or not process:
        return None
    counted = {engine: (of.get(_TOKENS, 0), of.get(_STEPS, 0)) for engine, of in engines.items()}
    return Reading(asked, came, process, counted, busy, ended, one_a_step)


@dataclass(slots=True, eq=False)
class Watch:
    """One pass.

    Attributes:
        before: a reading from before it was sent; None: there was none in time.
        most: tokens that it asked for.
        ahead: so many steps at least had been made since that reading when it was sent.
        came: tokens of it that have come.
        told: tokens that the server says at its end that it was served.
        noticed: it was left, and the server has closed its half of the connection too.
        over: `end` has been told.
    """

    before: Reading | None
    most: int
    ahead: int = 0
    came: int = 0
    told: int = 0
    noticed: bool = False
    over: bool = False


@dataclass(slots=True)
class _Sum:
    """What became of our passes since the last quiet moment."""

    at: Reading
    ended: int = 0
    tokens: int = 0
    left: int = 0


@dataclass(slots=True)
class EngineCounters:
    """The counters of one server, for all passes of ours that it serves; in any event loop.

    Args:
        url: of its `/metrics`.

    Attributes:
        proven: closing a connection was seen to stop the engine behind this address.
        silent: why nothing can be known here; "" where it can.
    """

    url: str
    proven: bool = False
    silent: str = ""
    _last: Reading | None = None
    _ahead: int = 0
    _quiet: _Sum | None = None
    _open: int = 0
    _failed: float = -math.inf
    _processes: list[str] = field(default_factory=list)
    _asking: dict[asyncio.AbstractEventLoop, tuple[float, asyncio.Task[Reading | None]]] = field(
        default_factory=dict
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def begin(self, session: aiohttp.ClientSession, most: int) -> Watch:
        """A pass of so many tokens is about to be sent. Each one is told to `end`."""
        now = time.monotonic()
        stale = self._last is None or now - self._last.asked > FRESH
        if not self.silent and stale and now - self._failed > AGAIN_SECONDS:
            await self._read(session, 0.0, BEFORE_SECONDS)
        with self._lock:
            self._open += 1
            return Watch(self._last, most, self._ahead)

    def end(self, watch: Watch, *, ended: bool) -> None:
        """A pass is over for us: it `ended` by itself, or was left, or was never served. Once is enough."""
        with self._lock:
            if watch.over:
                return
            watch.over = True
            self._open -= 1
            if watch.before is self._last:  # all that it was served was served since that reading
                self._ahead = max(self._ahead, watch.ahead + min(watch.told, watch.came))
            if (quiet := self._quiet) is not None:
                quiet.ended += ended
                quiet.tokens += watch.came
                quiet.left += not ended and watch.came > 0 and watch.most - watch.came >= SHORT

    async def served(self, session: aiohttp.ClientSession, watch: Watch, seconds: float) -> int | None:
        """The most that a pass that was left can have been served; None: nobody can know, so all of it.

        Its connection is closed, and it was told to `end`.

        Args:
            seconds: for which it is waited for at most.
        """
        since, until, pause, answered = time.monotonic(), time.monotonic() + seconds, POLL_SECONDS, 0
        while watch.before is not None and (watch.came or (self.proven and watch.noticed)):
            reading = await self._read(session, since, until - time.monotonic())
            if reading is None or self.silent:
                break
            most, since, answered = reading.since(watch.before), time.monotonic(), answered + 1
            if most is not None and len(reading.engines) == 1:
                most -= watch.ahead
            if most is None or most < watch.came:  # another process's, or tokens that came twice
                self.proven = False
                break
            if watch.came and not reading.busy:
                return min(most, watch.most)
            if self.proven and watch.noticed and answered > 1:
                return min(most + BEHIND, watch.most)
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause *= 2
        return None

    # Readings

    async def _read(self, session: aiohttp.ClientSession, since: float, seconds: float) -> Reading | None:
        """A reading that was asked for at `since` or later; who wants one at the same time shares it."""
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

    def _asked(self, loop: asyncio.AbstractEventLoop, done: asyncio.Task[Reading | None]) -> None:
        if loop in self._asking and self._asking[loop][1] is done:
            del self._asking[loop]

    async def _ask(self, session: aiohttp.ClientSession) -> Reading | None:
        asked, text = time.monotonic(), b""
        try:
            async with (
                asyncio.timeout(READ_SECONDS),
                session.get(self.url, allow_redirects=False, headers=ANEW) as response,
            ):
                if response.status in (401, 403, 404, 405, 410, 501) or 300 <= response.status < 400:
                    self.silent = f"{self.url} answers {response.status}"
                elif response.status == 200:
                    async for piece in response.content.iter_any():
                        text += piece
                        if len(text) > LONGEST:
                            break
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError):
            text = b""
        if not text.endswith(b"\n"):  # nothing, or a part: the last number would be another one
            self._failed = time.monotonic()
            return None
        reading = parse(text.decode(errors="replace"), asked, time.monotonic())
        if reading is None:
            self.silent = f"{self.url} has no counters of one vLLM process"
        else:
            self._take(reading)
        return reading

    def _take(self, reading: Reading) -> None:
        """Learn from a reading: who counts, and whether what we left has stopped."""
        with self._lock:
            known = self._processes
            if not known or known[-1] != reading.process:
                if reading.process in known:
                    self.silent = f"{self.url} is several servers"
                self._processes = [*known[-9:], reading.process]
                self.proven, self._quiet = False, None  # it was started anew
            self._last, self._ahead = reading, 0
            if reading.busy or self._open:
                return
            before, self._quiet = self._quiet, _Sum(reading)
            if before is None:
                return
            counted = reading.tokens - before.at.tokens
            if counted < before.tokens:  # it does not count what it sends us
                self.proven = False
            elif before.left and reading.ended - before.at.ended == before.ended:
                self.proven = True
