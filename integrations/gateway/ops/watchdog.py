"""Reports what makes the event loop stand still: for how long, in which request, and where in the code.

While one request computes, all others wait, so no step may take longer than STALL. The loop sets a beat every
BEAT seconds; a thread watches the beats, and notes the loop's stack when a beat is late. On a busy machine
beats are late, too, so only time counts in which the loop's thread computed or slept (in a lock, on a disk,
while another thread held Python's lock), not time in which it waited for a processor.

For debugging and tests (`serve --watchdog`): it costs about 1 ms of processor time a second.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BEAT = 0.02
STALL = 0.1
REQUEST = "request "
"""How the names of asyncio tasks begin that answer a request."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A time for which the loop stood still.

    Attributes:
        seconds: for which its thread computed or slept.
        request: method, route and id of the request that was running; "" where no request was, as while the
            loop reads from a connection.
        stack: the innermost lines of code, without values.
    """

    seconds: float
    request: str
    stack: str


class Watchdog:
    """Watches the running event loop, from `start` to `stop`.

    Args:
        on_stall: is called with each stall, on the loop.
        seconds: the shortest stall that counts.
    """

    def __init__(self, on_stall: Callable[[Stall], None], seconds: float = STALL) -> None:
        self._on_stall, self._seconds = on_stall, seconds
        self._ended = threading.Event()
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._loop = asyncio.get_running_loop()
        self._ident, self._native = threading.get_ident(), threading.get_native_id()
        self._seen = ("", "")
        self._slept = 0.0
        self._at, self._computed = time.monotonic(), time.thread_time()
        self._handle = self._loop.call_later(BEAT, self._beat)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._ended.set()
        if self._handle is not None:
            self._handle.cancel()
            self._thread.join()

    def _beat(self) -> None:
        now, computed = time.monotonic(), time.thread_time()
        seconds = min(now - self._at - BEAT, computed - self._computed + self._slept)
        if seconds > self._seconds:
            self._on_stall(Stall(seconds, *self._seen))
        self._seen, self._slept = ("", ""), 0.0
        self._at, self._computed = now, computed
        self._handle = self._loop.call_later(BEAT, self._beat)

    def _watch(self) -> None:
        while not self._ended.wait(BEAT):
            late = time.monotonic() - self._at
            if late > 2 * BEAT:
                self._slept += BEAT if self._sleeps() else 0.0
            if late > self._seconds / 2 and not self._seen[1]:
                self._seen = self._look()

    def _look(self) -> tuple[str, str]:
        """The request and the stack of the loop at this moment."""
        name, frame = "", sys._current_frames().get(self._ident)
        with suppress(RuntimeError):
            task = asyncio.current_task(self._loop)
            name = task.get_name() if task is not None else ""
        lines = traceback.extract_stack(frame)[-12:]
        stack = "\n".join(f"  {line.filename}:{line.lineno} {line.name}" for line in lines)
        return name.removeprefix(REQUEST) if name.startswith(REQUEST) else "", stack

    def _sleeps(self) -> bool:
        """Whether the loop's thread waits for anything but a processor."""
        try:
            state = Path(f"/proc/self/task/{self._native}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):  # not on this system: only computing counts
            return False
        return state in "SD"
