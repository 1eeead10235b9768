"""A thread with an event loop that several users share: the first user starts it, the last one ends it."""

from __future__ import annotations

import asyncio
import threading


class SharedLoop:
    """Starts and ends the thread. `name`: of the thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._users = 0
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def enter(self) -> asyncio.AbstractEventLoop:
        """Count one more user. After a fork the child starts a thread of its own."""
        with self._lock:
            if self._running is None or not self._running[1].is_alive():
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
                thread.start()
                self._running, self._users = (loop, thread), 0
            self._users += 1
            return self._running[0]

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count one user less. Blocks for as long as the thread takes to end."""
        with self._lock:
            if self._running is None or self._running[0] is not loop:
                return
            self._users -= 1
            if self._users == 0:
                loop.call_soon_threadsafe(loop.stop)
                self._running[1].join()
                loop.close()
                self._running = None
