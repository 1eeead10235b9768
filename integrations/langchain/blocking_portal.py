"""Sync calls over async code: one background event loop for the whole process.

The integration is written once, async. A sync caller (`invoke`, `stream`, a sync LangGraph) hands its
coroutine to the portal's loop and waits. What anyio's portal does not do is needed here:

- Context variables go both ways, `task_budget` among them. Every step runs in a copy of the caller's
  context, and what a step of a stream sets there is set in the caller's context afterwards, as after an
  `await`: by such a variable the scheduler knows that a call is made while a stream is open around it.
- An interrupted caller (Ctrl-C) waits until the cancelled coroutine's `finally` blocks have run, so that
  backends stop and holds are settled.
- A process's end waits for open work for a limited time, and a forked process starts a portal of its own.
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

_EXIT_SECONDS = 5.0
"""Seconds that the end of the process waits at most."""


class BlockingPortal:
    """An event loop in a daemon thread, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a garbage collection in the middle of a method may enter another one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._background: set[Future[object]] = set()
        self._streams: WeakSet[AsyncGenerator[Any]] = WeakSet()

    def run(self, work: Coroutine[Any, Any, T], context: contextvars.Context | None = None) -> T:
        """Run a coroutine on the portal's loop and wait for it.

        Args:
            context: what it runs in; None: a copy of the caller's.

        Raises:
            RuntimeError: called from the portal's own thread, where waiting would never end.
        """
        with self._lock:
            loop = self._start_loop()
            if threading.current_thread() is self._thread:
                work.close()
                raise RuntimeError(
                    "a sync call from inside the portal's loop would wait for itself: use await"
                )
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

    def iterate(self, work: AsyncGenerator[T]) -> Iterator[T]:
        """The items of an async generator, pulled one by one. Closing the iterator closes the generator."""
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
            if self._loop is loop:  # else the generator has ended with its loop
                self._step(work.aclose())

    def _step(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a step of a stream, and set in the caller's context what it set."""
        before = task_context()
        context = before.copy()
        try:
            return self.run(work, context)
        finally:
            for variable, value in context.items():
                if variable not in before or before[variable] is not value:
                    variable.set(value)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Start a coroutine on the portal's loop without waiting. From any thread, its own included."""
        with self._lock:
            loop = self._start_loop()
        started = asyncio.run_coroutine_threadsafe(work, loop)
        self._background.add(started)
        started.add_done_callback(self._background.discard)

    def wait_for_started(self) -> None:
        """Wait, for a limited time, for the work of `start`: the process is about to end."""
        wait(list(self._background), timeout=_EXIT_SECONDS)

    def close(self) -> None:
        """End all work on the loop, and the loop: what is left open would complain on standard error when the
        process ends. A later call starts another loop."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or not thread.is_alive():
            return
        ending = asyncio.run_coroutine_threadsafe(_end_all(loop, list(self._streams)), loop)
        wait([ending], timeout=_EXIT_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_EXIT_SECONDS)
        if not thread.is_alive():
            loop.close()

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="elastic-agent-portal", daemon=True
            )
            self._thread.start()
        return self._loop


async def _end_all(loop: asyncio.AbstractEventLoop, streams: list[AsyncGenerator[Any]]) -> None:
    """What `asyncio.run` does at its end, after closing the streams that were left open, outermost first."""
    for stream in streams:
        with contextlib.suppress(Exception):
            await stream.aclose()
    me = asyncio.current_task()
    if others := [task for task in asyncio.all_tasks() if task is not me]:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=_EXIT_SECONDS / 2)
    await loop.shutdown_asyncgens()


async def _next(work: AsyncGenerator[T]) -> T:
    return await anext(work)


portal = BlockingPortal()
"""The process's portal."""
atexit.register(portal.close)


def _after_fork() -> None:
    portal.__init__()  # type: ignore[misc]  # threads don't survive a fork: the child starts its own


os.register_at_fork(after_in_child=_after_fork)
