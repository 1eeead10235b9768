"""Steps that wait together go together: they share a round trip and a commit.

One thread with one connection runs the batches. While a batch of steps is under way the next ones gather
behind it; then all of them leave at once. A step that finds nobody there leaves at once too, unless nobody
waits for it: then it lingers a little for company, since the next hold is often near.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from elastic_agent.errors import StoreUnavailableError

J = TypeVar("J")

TOGETHER = 64
"""Steps in one batch at most: so long do others wait for the place that they are about."""
LINGER = 0.005
"""Seconds for which a step that nobody waits for waits for others to go with."""


@dataclass(slots=True)
class Waiting(Generic[J]):
    """A step in the queue.

    Attributes:
        until: it may linger so long, by `time.monotonic`; 0: not at all.
    """

    job: J
    until: float = 0.0
    answer: Future[Any] = field(default_factory=Future)


class GroupCommit(Generic[J]):
    """See the module. For any number of threads and event loops.

    Args:
        name: of the thread.
        together: runs steps, on the thread, and returns an answer for each, once all are durable; one that is
            an exception is raised. When it raises itself, the steps are run one by one, and each gets its own
            answer; unless with a StoreUnavailableError, which all get: one by one they would wait as long.
        done: called on the thread at its end.
        timeout: seconds that a step may take, its wait included; None: for ever.
        cut: called when a batch has been under way for as long: it must make `together` raise.
    """

    def __init__(
        self,
        name: str,
        together: Callable[[list[J]], list[Any]],
        *,
        done: Callable[[], None] = lambda: None,
        timeout: float | None = None,
        cut: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._together, self._done = name, together, done
        self._timeout, self._cut = timeout, cut
        self._queue: queue.SimpleQueue[Waiting[J] | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._since: float | None = None
        self._thread: threading.Thread | None = self._start()  # now: a step's event loop would stand still

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
        """A step that nobody waits for, or not soon. For it there is no timeout."""
        return self._put(Waiting(job, time.monotonic() + LINGER)).answer

    async def aclose(self) -> None:
        """Finish what waits, or give it up after the timeout."""
        if self._thread is not None:
            self._queue.put(None)
            ending = asyncio.ensure_future(asyncio.to_thread(self._thread.join))
            while not (await asyncio.wait([ending], timeout=self._timeout))[0]:
                self._cut()
            self._thread = None

    def _put(self, waiting: Waiting[J]) -> Waiting[J]:
        if not self._works():  # closed, or forked: a child has none of its parent's threads
            with self._starting:
                if not self._works():
                    self._thread = self._start()
        self._queue.put(waiting)
        return waiting

    def _works(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        thread.start()
        return thread

    def _cut_when_late(self) -> None:
        """Nobody may wait for the batch that is under way any more: cut it as soon as it has had its time."""
        since, timeout = self._since, self._timeout
        if since is None or timeout is None:
            return

        def cut() -> None:
            if self._since == since:
                self._cut()

        asyncio.get_running_loop().call_later(since + timeout - time.monotonic(), cut)

    # On the thread

    def _work(self) -> None:
        going = True
        while going:
            batch = self._next()
            going = batch[-1] is not None
            steps = [
                each for each in batch if each is not None and each.answer.set_running_or_notify_cancel()
            ]
            if steps:
                self._do(steps)
        self._done()

    def _next(self) -> list[Waiting[J] | None]:
        """All that wait, as soon as one of them won't linger any more. None at the end: the last batch."""
        batch, until = [self._queue.get()], math.inf
        while (last := batch[-1]) is not None and len(batch) < TOGETHER:
            until = min(until, last.until)
            left = max(0.0, until - time.monotonic())
            try:
                batch.append(self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait())
            except queue.Empty:
                if left == 0:
                    break
        return batch

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
