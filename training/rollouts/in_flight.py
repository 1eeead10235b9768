"""A batch that is sampled in a thread of its own, while the trainer learns from the one before (`ahead`).

The thread makes the batch with the run's own rollout function, in which a `NextBatch` takes the trainer's
place. The thread does nothing that all processes must do together, and never touches the model.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from elastic_agent.backends.base import Backend

from .engines.engine import Batch, OutsideEngine, Sample, Sampled
from .rollout import Rollout
from .trl_columns import RolloutFunc, updates_of

_SWITCH = 1e-4
"""Seconds after which a thread that waits for Python's lock gets it, while a batch is in flight (else 5e-3).

The trainer's thread gives the lock away at each operation of torch, and the thread that reads the servers'
tokens is busy. With 5 ms an update took 1.8 s in place of 0.6, with 0.1 ms 0.6 in place of 0.5 (e1-tiny, two
cores, beside a thread that was busy half of the time)."""
_PATIENCE = 10.0  # seconds that a batch in flight has to end once it is cancelled


@dataclass(slots=True)
class NextBatch:
    """What a rollout function reads of a trainer, for a batch that TRL has not asked for yet."""

    args: Any
    accelerator: Any
    num_generations: int
    rollout_rows: Sequence[Mapping[str, Any]]
    state: Any
    flight: InFlight


@dataclass(eq=False)
class InFlight:
    """A batch that is made in a thread of its own."""

    engine: OutsideEngine
    weights: Any
    number: int
    rows: Sequence[Mapping[str, Any]]
    samples: list[Sample] = field(default_factory=list)
    sampled: int = 0
    """Tokens."""
    lost: int = 0
    loading: float = 0.0
    seconds: float = 0.0
    """How long it took, once it is made."""
    _columns: Future[dict[str, Any]] = field(default_factory=Future)
    _thread: threading.Thread | None = None
    _running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None] | None = None
    _cancelled: bool = False

    @property
    def prompts(self) -> list[Any]:
        return [row["prompt"] for row in self.rows]

    def begin(self, trainer: Any, make: RolloutFunc) -> None:
        """Let a thread make the batch with this function."""
        given = NextBatch(
            args=trainer.args,
            accelerator=trainer.accelerator,
            num_generations=trainer.num_generations,
            rollout_rows=self.rows,
            state=SimpleNamespace(global_step=self.number * updates_of(trainer)),
            flight=self,
        )

        usual = sys.getswitchinterval()

        def make_timed() -> dict[str, Any]:
            began = time.perf_counter()
            try:
                return make(self.prompts, given)
            finally:
                self.seconds = time.perf_counter() - began
                sys.setswitchinterval(usual)

        def work() -> None:
            try:
                self._columns.set_result(make_timed())
            except BaseException as error:
                self._columns.set_exception(error)

        sys.setswitchinterval(_SWITCH)
        self._thread = threading.Thread(target=work, name=f"batch {self.number}", daemon=True)
        self._thread.start()

    def decode(self, batch: Batch) -> list[Rollout]:
        """Sample calls; in the thread."""

        async def sample() -> Sampled:
            self._run_here()
            return await self.engine.sample(self.weights, batch)

        done = asyncio.run(sample())
        self.samples += done.rollouts
        self.sampled += sum(sum(rollout.env_mask) for rollout in done.rollouts)
        self.lost += done.lost
        self.loading += done.loading
        return done.rollouts

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Backend]:
        """The engine as a Backend; in an event loop of the thread, or of one that the thread waits for."""
        self._run_here()
        async with self.engine.serve(self.weights) as backend:
            try:
                yield backend
            finally:
                self.sampled += backend.meter.output
                self.lost += backend.lost
                self.loading += backend.loading

    def _run_here(self) -> None:
        """From now on `cancel` cancels this task."""
        self._running = asyncio.get_running_loop(), asyncio.current_task()
        if self._cancelled:
            raise asyncio.CancelledError

    def land(self) -> dict[str, Any]:
        """The columns of the batch, once it is made.

        Raises:
            BackendError: the engine was lost; and whatever else the rollout function raised.
        """
        return self._columns.result()

    def wait(self) -> None:
        """Return once the batch is made, or has failed."""
        wait([self._columns])

    def cancel(self) -> None:
        """Give the batch up: its requests end."""
        self._cancelled = True
        if self._running is not None and self._running[1] is not None:
            with suppress(RuntimeError):  # its loop is closed: it has ended
                self._running[0].call_soon_threadsafe(self._running[1].cancel)
        if self._thread is not None:
            self._thread.join(_PATIENCE)
