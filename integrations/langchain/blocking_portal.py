"""Sync calls over async code: one background event loop for the whole process.

The integration is written once, async. A sync caller (`invoke`, `stream`, a sync LangGraph) hands its
coroutine to the portal's loop and waits. Two things must not get lost on the way:

- the caller's contextvars, `task_budget` among them: every step runs in a copy of the caller's context, and
  what a step of a stream sets there is set in the caller's, as if it had been awaited (the scheduler knows by
  such a variable that a call is made while a stream is open around it);
- an interruption: when the waiting caller is interrupted (Ctrl-C), the coroutine is cancelled, and the caller
  goes on only when its `finally` blocks have run, so that backends stop and holds are settled.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar
from weakref import WeakSet

from elastic_agent.scheduler.runtime.context import task_context

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds that the end of the process is held up at most."""


class Portal:
    """An event loop in a daemon thread, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # what is collected as garbage comes here in the middle of anything
        self._loop: asyncio.AbstractEventLoop | None = None
        self._behind: set[Future[object]] = set()
        self._streams: WeakSet[AsyncGenerator[Any]] = WeakSet()
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T], context: contextvars.Context | None = None) -> T:
        """Run a coroutine on the portal's loop and wait for it.

        Args:
            context: what it runs in; by default a copy of the caller's.

        Raises:
            RuntimeError: called from the portal's own thread, where waiting would never end.
        """
        loop = self._running(work)
        done: Future[T] = Future()
        running: list[asyncio.Task[T]] = []
        context = context or task_context()

        def finish(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                done.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        def start() -> None:
            running.append(loop.create_task(work, context=context))
            running[0].add_done_callback(finish)

        loop.call_soon_threadsafe(start)
        try:
            return done.result()
        except BaseException:
            if not done.done():
                loop.call_soon_threadsafe(lambda: running[0].cancel())
                done.exception()
            raise

    def soon(self, work: Coroutine[Any, Any, object]) -> None:
        """Start a coroutine on the portal's loop and don't wait for it. From any thread, its own included."""
        with self._lock:
            loop = self._started()
        started = asyncio.run_coroutine_threadsafe(work, loop)
        self._behind.add(started)
        started.add_done_callback(self._behind.discard)

    def finish(self) -> None:
        """Wait a moment for what `soon` has started: the process is about to end."""
        wait(list(self._behind), timeout=_PATIENCE)

    def close(self) -> None:
        """End what still runs on the loop, and the loop: the process is about to end, and what is left open
        would say so on standard error. A later call starts another."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or not thread.is_alive():
            return
        wait([asyncio.run_coroutine_threadsafe(_wind_up(loop, list(self._streams)), loop)], timeout=_PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE)
        if not thread.is_alive():
            loop.close()

    def iterate(self, work: AsyncGenerator[T]) -> Iterator[T]:
        """The items of an async generator, pulled one by one; closing the iterator closes the generator."""
        loop = None
        self._streams.add(work)
        try:
            while True:
                try:
                    item = self._step(_next(work))
                except StopAsyncIteration:
                    return
                loop = self._loop
                yield item
        finally:
            if self._loop is loop:  # else its loop has ended, and the generator with it
                self._step(work.aclose())

    def _step(self, work: Coroutine[Any, Any, T]) -> T:
        before = task_context()
        context = before.copy()
        try:
            return self.run(work, context)
        finally:
            for variable, value in context.items():
                if variable not in before or before[variable] is not value:
                    variable.set(value)

    def _running(self, work: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop:
        with self._lock:
            loop = self._started()
            if threading.current_thread() is self._thread:
                work.close()
                raise RuntimeError(
                    "a sync call from inside the portal's loop would wait for itself: use await"
                )
            return loop

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="elastic-agent-portal", daemon=True
            )
            self._thread.start()
        return self._loop


async def _wind_up(loop: asyncio.AbstractEventLoop, streams: list[AsyncGenerator[Any]]) -> None:
    """What `asyncio.run` does at its end; streams that were left are closed first, from the outside in."""
    for stream in streams:
        with contextlib.suppress(Exception):
            await stream.aclose()
    me = asyncio.current_task()
    if others := [task for task in asyncio.all_tasks() if task is not me]:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=_PATIENCE / 2)
    await loop.shutdown_asyncgens()


async def _next(work: AsyncGenerator[T]) -> T:
    return await anext(work)


portal = Portal()
"""The process's portal."""
atexit.register(portal.close)


def _after_fork() -> None:
    portal.__init__()  # type: ignore[misc]  # threads do not survive a fork: the child starts its own


os.register_at_fork(after_in_child=_after_fork)
