"""Seconds of a batch by phase, and tokens a second: measured around the seam that every engine stands behind.

rollout      decoding, in the engine
ahead        sampling that ran beside the update before it (`rollout.ahead`): no time of this batch
sync         giving the engine the weights, and putting it to rest
reward       grading
validation   the problems held out
update       all else of the batch: log-probs, gradients, the optimizer, checkpoints
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from elastic_agent.backends.base import Backend

from ..rollouts.engines.correction import sync_through
from ..rollouts.engines.engine import MOST_ROWS, Batch, Engine, Sample
from ..rollouts.rollout import Rollout

Validate = Callable[[int], dict[str, float]]
MEASURED = ("rollout", "sync", "reward", "validation")


class Phases:
    """The clock of one process."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = defaultdict(float)
        self._started = clock()
        self.sampled = self.read = 0
        """Tokens of this batch that were sampled, and that the update reads."""
        self.ahead = 0.0
        """Seconds of sampling that ran beside the update before it."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block towards the phase."""
        begun = self._clock()
        try:
            yield
        finally:
            self._seconds[name] += self._clock() - begun

    def count(self, sampled: int, samples: Sequence[Sample]) -> None:
        """So many tokens were sampled for the batch, and it has these samples."""
        self.sampled += sampled
        self.read += sum(len(one.prompt_ids) + len(one.completion_ids) for one in samples)

    def batch(self) -> dict[str, float]:
        """The numbers of the batch that ends now, for the log; the next one begins."""
        now = self._clock()
        total, seconds = now - self._started, self._seconds
        update = max(0.0, total - sum(seconds.values()))
        found = {f"seconds/{name}": seconds.get(name, 0.0) for name in MEASURED} | {"seconds/update": update}
        if self.ahead:
            found["seconds/ahead"] = self.ahead
        for name, tokens, spent in (
            ("rollout", self.sampled, found["seconds/rollout"] + self.ahead),
            ("update", self.read, update),
        ):
            found[f"tokens_s/{name}"] = tokens / spent if spent > 0 else 0.0
        self._seconds, self._started = defaultdict(float), now
        self.sampled = self.read = 0
        self.ahead = 0.0
        return found


class TimedEngine:
    """An engine whose decoding and syncing are timed, and whose rollouts are counted."""

    def __init__(self, engine: Engine, phases: Phases) -> None:
        self.engine, self.phases = engine, phases

    @property
    def gathers(self) -> bool:
        return self.engine.gathers

    def start(self, trainer: Any) -> None:
        self.engine.start(trainer)
        sync_through(self, self.engine, trainer)

    def sync_weights(self) -> None:
        with self.phases.phase("sync"):
            self.engine.sync_weights()

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        with self.phases.phase("rollout"):
            done = self.engine.decode(trainer, batch)
        self.phases.count(sum(sum(rollout.env_mask) for rollout in done), done)
        return done

    @property
    def gives_logprobs(self) -> bool:
        return self.engine.gives_logprobs

    def serving(self, trainer: Any, rows: int = MOST_ROWS) -> AbstractAsyncContextManager[Backend]:
        """The served engine; from entering to leaving is time of rollouts."""
        with self.phases.phase("sync"):
            given = self.engine.serving(trainer, rows)
        return self._timed(given)

    @asynccontextmanager
    async def _timed(self, given: AbstractAsyncContextManager[Backend]) -> AsyncGenerator[Backend]:
        with self.phases.phase("rollout"):
            async with given as backend:
                try:
                    yield backend
                finally:
                    self.phases.count(backend.meter.output, ())

    def check_served(self, trainer: Any, samples: Sequence[Sample]) -> None:
        """Also counts the tokens that the update reads."""
        self.phases.count(0, samples)
        self.engine.check_served(trainer, samples)

    def rest(self) -> None:
        with self.phases.phase("sync"):
            self.engine.rest()

    def close(self) -> None:
        self.engine.close()


def make_phase_callback(
    phases: Phases, updates: int, note: Callable[[dict[str, float]], None], validate: Validate | None
) -> Any:
    """A callback of transformers' Trainer that logs the numbers of each batch, before the batch is logged.

    Args:
        updates: of a batch.
        note: logs numbers with the batch that ends.
        validate: (batch number, from 1) -> numbers of a validation, if one is due.
    """
    from transformers import TrainerCallback

    class PhaseCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            phases.batch()  # loading counts nowhere

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % updates:
                return
            if validate is not None:
                with phases.phase("validation"):
                    note(validate(state.global_step // updates))
            note(phases.batch())

    return PhaseCallback()
