"""Runs the episodes of a batch side by side, on an event loop in a thread of its own.

The trainer's thread waits. So the loop can be watched: an agent that blocks it (`while True`, a synchronous
request in a coroutine) is interrupted when its time is up. If the interruption doesn't help, for example in a
`time.sleep` of an hour, the thread is left behind, and the other episodes begin again on a new loop. A hang
costs its own episode only.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

from elastic_agent.errors import BackendUnavailableError

from .episode import Episode, EpisodeFailedError, EpisodeSetting, EpisodeSpec, Model, run_episode

log = logging.getLogger(__name__)

_BEAT = 0.25
"""Seconds between two questions to the loop."""
_HELP = 5.0
"""Seconds that an interrupted loop, or a cancelled run, has to come back."""
_BLOCKED = (
    "the agent blocked the event loop for as long as an episode may take (agent.seconds): await what takes "
    "time, or use asyncio.to_thread"
)
_MOST_LOOPS = 8
"""Loops that may be left behind in one batch."""


class Opened(Protocol):
    """The model in training, to be entered in the event loop of the episodes."""

    async def __aenter__(self) -> Model: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    def abandon(self) -> None:
        """Leave the model from another thread, because the event loop stands still."""


Open = Callable[[], Opened]
"""Gives the model in training; called in the trainer's thread."""

Again = Callable[[Sequence[Episode]], Mapping[int, EpisodeSpec]]

_episode: ContextVar[int | None] = ContextVar("elastic_agent_episode", default=None)
"""The place of the episode, among those of a batch, to which code belongs."""


class LoopBlockedError(EpisodeFailedError):
    """Raised in an agent that blocks the event loop of all."""

    def __str__(self) -> str:
        return _BLOCKED


@dataclass(frozen=True, slots=True)
class Limits:
    """How episodes share the machine.

    Attributes:
        concurrency: episodes at once.
        patience: seconds that the last tenth of a batch's episodes may take longer than the others; None: as
            long as each episode may take.
        retries: how often episodes that lost the engine are run again, in a row of tries without any success.
        backoff: seconds before the first of these tries; doubled each time, up to a minute.
        reopens: the model may be opened again for the others when an agent has blocked the loop for good. Not
            with several processes, which open the model together: there the others have failed, too.
    """

    concurrency: int = 64
    patience: float | None = None
    retries: int = 8
    backoff: float = 1.0
    reopens: bool = True


def run_episodes(
    specs: Sequence[EpisodeSpec],
    setting: EpisodeSetting,
    limits: Limits,
    open_model: Open,
    again: Again = lambda episodes: {},
) -> list[Episode]:
    """Run every episode; results in the order of the specs.

    Args:
        again: gets the episodes when all have ended, and gives new specs for those that are to be run in
            place of them, by their place; it is asked until it gives none.

    Raises:
        BackendError: the model in training can't be had.
        KeyboardInterrupt: Ctrl-C; all episodes have ended.
    """
    specs, done = list(specs), dict[int, Episode]()
    for _ in range(_MOST_LOOPS if limits.reopens else 1):
        left = [i for i in range(len(specs)) if i not in done]
        if not left:
            break
        blocked = _Loop(
            _Batch(specs, setting, limits, open_model(), again, done, left), setting.seconds
        ).run()
        if blocked is not None:
            done[blocked] = Episode(specs[blocked], failure=_BLOCKED, seconds=setting.seconds)
    for i in range(len(specs)):
        done.setdefault(i, Episode(specs[i], failure="another agent of the batch blocked the event loop"))
    return [done[i] for i in range(len(specs))]


@dataclass(slots=True)
class _Batch:
    """The episodes of one loop: those of `todo`, whose results go to `done`."""

    specs: list[EpisodeSpec]
    setting: EpisodeSetting
    limits: Limits
    opened: Opened
    again: Again
    done: dict[int, Episode]
    todo: Sequence[int]
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _begun: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Run all, at most `concurrency` at once; those that lost the engine again."""
        async with self.opened as model:
            todo, tries = list(self.todo), 1
            while todo:
                await self._run_all(todo, model)
                lost = [i for i in todo if self.done[i].lost]
                tries = tries + 1 if len(lost) == len(todo) else 1
                if lost and tries > self.limits.retries:
                    raise BackendUnavailableError(
                        f"{len(lost)} of {len(self.specs)} episodes are missing, and {tries} tries in a row "
                        f"brought none: {self.done[lost[0]].failure}"
                    )
                if lost:
                    todo = lost
                    await asyncio.sleep(min(60.0, self.limits.backoff * 2 ** (tries - 1)))
                else:
                    todo = self._replace()

    def _replace(self) -> list[int]:
        """The places whose episodes are run again, with the specs that `again` gives."""
        specs = self.again([self.done[i] for i in range(len(self.specs))])
        for i, spec in specs.items():
            self.specs[i] = spec
            del self.done[i]
        return list(specs)

    async def _run_all(self, todo: Sequence[int], model: Model) -> None:
        slots = asyncio.Semaphore(self.limits.concurrency)
        self._begun = {i: asyncio.ensure_future(self._run(i, model, slots)) for i in todo}
        try:
            await self._until_ended()
        finally:
            for task in self._begun.values():
                task.cancel()
            ended = await asyncio.gather(*self._begun.values(), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):  # of the run, not of an agent: such as words that can't be told
                raise error

    async def _run(self, i: int, model: Model, slots: asyncio.Semaphore) -> None:
        _episode.set(i)
        spec, setting = self.specs[i], self.setting
        try:
            async with slots:
                episode = asyncio.ensure_future(run_episode(spec, setting, model))
                try:
                    await asyncio.wait([episode], timeout=setting.seconds + _HELP)
                finally:
                    if not episode.done():
                        episode.cancel()
                        await asyncio.wait([episode], timeout=_HELP)
                if episode.done() and not episode.cancelled():
                    self.done[i] = episode.result()
                else:
                    failure = f"the agent did not end within {setting.seconds:g} s, nor when it was cancelled"
                    self.done[i] = Episode(spec, failure=failure, seconds=setting.seconds)
        finally:
            self._ended.set()

    async def _until_ended(self) -> None:
        """Return when all have ended, or the last tenth has had its time."""
        patience, stragglers = self.limits.patience, max(1, len(self.specs) // 10)
        until: float | None = None
        loop = asyncio.get_running_loop()
        while left := [i for i in self._begun if not self._begun[i].done()]:
            if until is None and patience is not None and len(left) <= stragglers < len(self.specs):
                until = loop.time() + patience
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._ended.wait()
            self._ended.clear()
            if until is not None and loop.time() >= until:
                for i in left:
                    if not self._begun[i].done():
                        self.done[i] = Episode(
                            self.specs[i],
                            failure=f"the agent took {patience:g} s longer than nine tenths of the batch",
                        )
                return


class _Loop:
    """An event loop in a thread, watched from this one."""

    def __init__(self, batch: _Batch, seconds: float) -> None:
        self._batch, self._seconds = batch, seconds
        self._owners: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(cast(Any, self._make_task))
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._beat = time.monotonic()
        self._main: asyncio.Task[None] | None = None

    def run(self) -> int | None:
        """Run the batch. Returns None when all is done, or the place of the episode that blocks the loop."""
        thread = threading.Thread(target=self._work, name="episodes", daemon=True)
        thread.start()
        self._beat = time.monotonic()
        try:
            while not self._over.wait(_BEAT):
                if (blocking := self._blocking()) is not None and not self._unblock(thread):
                    log.warning("an agent blocks its event loop: the other episodes go on in another one")
                    self._batch.opened.abandon()
                    return blocking
                self._ask(self._answer)
        except BaseException:
            self._ask(self._cancel)
            self._over.wait(_HELP)
            raise
        if self._error is not None:
            raise self._error
        return None

    def _blocking(self) -> int | None:
        """The place of the episode that has blocked the loop for too long."""
        if time.monotonic() - self._beat < self._seconds:
            return None
        task = asyncio.current_task(self._loop)
        return None if task is None else self._owners.get(task)

    def _unblock(self, thread: threading.Thread) -> bool:
        """Raise an error in the code that runs on the loop; whether the loop then goes on."""
        before = self._beat
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(LoopBlockedError)
        )
        self._ask(self._answer)
        until = time.monotonic() + _HELP
        while self._beat == before and not self._over.is_set() and time.monotonic() < until:
            time.sleep(_BEAT / 5)
        return self._beat != before or self._over.is_set()

    def _ask(self, question: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(question)

    def _answer(self) -> None:
        self._beat = time.monotonic()

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, make: Coroutine[Any, Any, Any], **options: Any
    ) -> Any:
        task = asyncio.Task(make, loop=loop, **options)
        if (owner := _episode.get()) is not None:
            self._owners[task] = owner
        return task

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._main = self._loop.create_task(self._batch.run())
            while not self._main.done():
                with suppress(SystemExit, KeyboardInterrupt, LoopBlockedError):  # of what an agent has left
                    self._loop.run_until_complete(self._main)
            self._error = None if self._main.cancelled() else self._main.exception()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._over.set()
            self._loop.close()
