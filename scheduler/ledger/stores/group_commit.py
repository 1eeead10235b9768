"""Steps that wait go together: they share a round trip and a commit.

One thread with one connection runs the batches. While a batch is under way the next steps gather; then all
of them leave at once. A step that finds no batch under way leaves at once, too. Only a step that no caller
waits for lingers a little for company, since the next hold is often near.
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from elastic_agent.errors import StoreUnavailableError

J = TypeVar("J")

TOGETHER = 64
"""Steps in one batch at most: a batch keeps other processes waiting."""
LINGER = 0.005
"""Seconds for which a step that no caller waits for lingers."""


@dataclass(slots=True)
class Waiting(Generic[J]):
    """A step in the queue. `until`: it may linger until then, by `time.monotonic`; 0: not at all."""

    job: J
    until: float = 0.0
    answer: Future[Any] = field(default_factory=Future)


Queue = queue.SimpleQueue[Waiting[J] | None]


class GroupCommit(Generic[J]):
    """Runs steps in batches on a thread of its own. For any number of threads and event loops.

    The thread starts here, and not with the first step: starting a thread waits for a processor, and a step's
    event loop would stand still meanwhile. A forked process starts a thread and a connection of its own with
    its first step; steps that waited at the fork stay with the parent.

    Args:
        name: of the thread.
        together: runs steps, on the thread, and returns an answer for each, once all are durable; an answer
            that is an exception is raised. When `together` raises, the steps are run one by one, and each
            gets its own answer; but a StoreUnavailableError goes to all: each would wait as long again.
        disconnect: called on the thread at its end.
        forked: called in a forked process, which must leave the parent's connection alone.
        timeout: seconds that a step may take, its wait included; None: for ever.
        cut: called when a batch has been under way for the timeout: must make `together` raise.
    """

    def __init__(
        self,
        name: str,
        together: Callable[[list[J]], list[Any]],
        *,
        disconnect: Callable[[], None] = lambda: None,
        forked: Callable[[], None] = lambda: None,
        timeout: float | None = None,
        cut: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._together, self._disconnect = name, together, disconnect
        self._forked, self._timeout, self._cut = forked, timeout, cut
        self._reset()
        self._start()
        _ALL.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # for the thread and the queue
        self._working = threading.Lock()  # a thread has it until its end: two would share a connection
        self._queue: Queue[J] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._since: float | None = None

    def after_fork(self) -> None:
        """In the child: no thread of the parent runs here, and a lock may be held for ever."""
        self._reset()
        self._forked()

    async def run(self, job: J) -> Any:
        """A step's answer.

        Raises:
            TimeoutError: it took too long; it may have happened.
        """
        waiting = self._put(Waiting(job))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiting.answer), self._timeout)
        except (TimeoutError, asyncio.CancelledError):
            self._cut_when_late()
            raise

    def later(self, job: J) -> Future[Any]:
        """The answer to come of a step that no caller waits for; without a timeout."""
        return self._put(Waiting(job, time.monotonic() + LINGER)).answer

    async def aclose(self) -> None:
        """Finish the steps that wait, or give them up after the timeout. A later step starts a new thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._queue.put(None)
            self._queue = queue.SimpleQueue()
        if thread is not None:
            ending = asyncio.ensure_future(asyncio.to_thread(thread.join))
            while not (await asyncio.wait([ending], timeout=self._timeout))[0]:
                self._cut()

    def _put(self, waiting: Waiting[J]) -> Waiting[J]:
        with self._lock:
            if self._thread is None:
                self._start()
            self._queue.put(waiting)
        return waiting

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, args=(self._queue,), name=self._name, daemon=True)
        self._thread.start()

    def _cut_when_late(self) -> None:
        """Cut the batch that is under way once it has had its time: its callers may all be gone."""
        since, timeout = self._since, self._timeout
        if since is None or timeout is None:
            return

        def cut() -> None:
            if self._since == since:
                self._cut()

        asyncio.get_running_loop().call_later(since + timeout - time.monotonic(), cut)

    # On the thread

    def _work(self, steps: Queue[J]) -> None:
        with self._working:
            going = True
            while going:
                batch = _next(steps)
                going = batch[-1] is not None
                starting = [one for one in batch if one and one.answer.set_running_or_notify_cancel()]
                if starting:
                    self._do(starting)
            self._disconnect()

    def _do(self, steps: list[Waiting[J]]) -> None:
        self._since = time.monotonic()
        try:
            answers = self._together([each.job for each in steps])
        except StoreUnavailableError as error:
            answers = [StoreUnavailableError(str(error)) for _ in steps]
        except BaseException as error:
            if len(steps) > 1:
                for each in steps:
                    self._do([each])
                return
            answers = [error]
        finally:
            self._since = None
        for each, answer in zip(steps, answers, strict=True):
            if isinstance(answer, BaseException):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)


def _next(steps: Queue[J]) -> list[Waiting[J] | None]:
    """All steps that wait, once one of them lingers no longer. The last batch ends with None."""
    batch, until = [steps.get()], math.inf
    while (last := batch[-1]) is not None and len(batch) < TOGETHER:
        until = min(until, last.until)
        left = max(0.0, until - time.monotonic())
        try:
            batch.append(steps.get(timeout=left) if left > 0 else steps.get_nowait())
        except queue.Empty:
            if left == 0:
                break
    return batch


_ALL: WeakSet[GroupCommit[Any]] = WeakSet()


def _after_fork() -> None:
    for commits in list(_ALL):
        commits.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
