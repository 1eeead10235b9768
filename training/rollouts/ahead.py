"""Samples the next batch while the trainer learns from the last one: `rollout.ahead: 1`.

    TRL asks for batch n:  wait for batch n; publish the weights; begin batch n + 1; hand out batch n
    the trainer learns from batch n, while servers sample batch n + 1 with the weights before these updates

So a batch is one batch's updates behind the weights that learn from it. The loss is corrected for it as it is
for a server's rounding: the ratio of the trainer's log-probs of now to the server's at sampling time
(`engines.correction`). The first batch of a run, and the first after a resume, has no batch before it to be
sampled beside: it is sampled when TRL asks for it, with the weights of now.

A thread makes a batch with the run's own rollout function (`in_flight`), so agents and anytime rewards work,
too. Weights are published, and log-probs compared, where TRL calls.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

from elastic_agent.backends.base import Backend
from elastic_agent.errors import BackendError, ConfigError

from ..config.schema import TrainConfig
from .engines.correction import sync_through
from .engines.engine import MOST_ROWS, Batch, OutsideEngine, Sample
from .in_flight import InFlight
from .rollout import Rollout
from .trl_columns import RolloutFunc, batch_of


def check_ahead(config: TrainConfig) -> None:
    """Refuse `rollout.ahead` where it can't help, or where nothing would correct for it.

    Raises:
        ConfigError: the engine decodes in this process, or the loss is not corrected.
    """
    rollout = config.rollout
    if not rollout.ahead:
        return
    if rollout.engine != "vllm-server":
        raise ConfigError(
            f"rollout.ahead: {rollout.engine} decodes in the process that learns, on the same device, so "
            f"nothing would run beside the update: take rollout.engine vllm-server, or leave rollout.ahead 0"
        )
    if config.trl.get("vllm_importance_sampling_correction") is False:
        raise ConfigError(
            "rollout.ahead: batches are sampled with the weights before the last update, which the loss must "
            "be corrected for: leave trl.vllm_importance_sampling_correction on"
        )
    if not rollout.temperature == rollout.top_p == 1:
        raise ConfigError(
            "rollout.ahead: the correction for the weights before the last update needs log-probs of what is "
            "sampled, which servers give at rollout.temperature 1 and rollout.top_p 1"
        )


class Clock(Protocol):
    """Seconds and tokens of a batch, for the log."""

    ahead: float
    """Seconds of sampling that ran beside the update."""

    def phase(self, name: str) -> AbstractContextManager[None]: ...

    def count(self, sampled: int, samples: Sequence[Sample]) -> None: ...


def decode_ahead(batch_to_come: Any, batch: Batch) -> list[Rollout]:
    """The engine of rollout functions that get a `NextBatch` for their trainer."""
    return list(batch_to_come.flight.decode(batch))


class Flying:
    """`decode_ahead` for agents: their `Serves`, where a `NextBatch` is the trainer."""

    gives_logprobs = True

    def serving(self, batch_to_come: Any, rows: int = MOST_ROWS) -> AbstractAsyncContextManager[Backend]:
        """The servers with the weights that were published for the batch."""
        flight: InFlight = batch_to_come.flight
        return flight.serving()

    def check_served(self, batch_to_come: Any, samples: Sequence[Sample]) -> None:
        """Keep them until the batch is handed out, when they are checked."""
        batch_to_come.flight.samples.extend(samples)


FLYING = Flying()


def rows_of(trainer: Any, number: int) -> list[Mapping[str, Any]] | None:
    """The rows of this process in batch `number`, from 0, as TRL will deal them; None behind the last batch.

    TRL takes the data set in order, repeats each row for its group, and gives each process a part.
    """
    arguments, accelerator, group = trainer.args, trainer.accelerator, trainer.num_generations
    each = arguments.per_device_train_batch_size * arguments.steps_per_generation
    prompts = each * accelerator.num_processes // group
    if (number + 1) * prompts > len(trainer.train_dataset):
        return None
    first = accelerator.process_index * each
    return [trainer.train_dataset[number * prompts + (first + i) // group] for i in range(each)]


class AheadEngine:
    """An engine outside this process whose next batch is in flight while the trainer learns."""

    def __init__(self, engine: OutsideEngine) -> None:
        self._engine = engine
        self._flight: InFlight | None = None

    @property
    def gathers(self) -> bool:
        return self._engine.gathers

    def start(self, trainer: Any) -> None:
        self._engine.start(trainer)
        sync_through(self, self._engine, trainer)

    def sync_weights(self) -> None:
        """Nothing: while TRL asks, a batch is in flight. Weights are published once it has landed."""

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        """Sample now, with the weights of now (for validation): first the batch in flight lands."""
        self._sync(trainer)
        return self._engine.decode(trainer, batch)

    @property
    def gives_logprobs(self) -> bool:
        return self._engine.gives_logprobs

    def serving(self, trainer: Any, rows: int = MOST_ROWS) -> AbstractAsyncContextManager[Backend]:
        """Serve the weights of now: first the batch in flight lands."""
        self._sync(trainer)
        return self._engine.serving(trainer, rows)

    def check_served(self, trainer: Any, samples: Sequence[Sample]) -> None:
        self._engine.check_served(trainer, samples)

    def rest(self) -> None:
        self._engine.rest()

    def close(self) -> None:
        """Give up the batch in flight, too."""
        if self._flight is not None:
            self._flight.cancel()
        self._engine.close()

    def rollouts(self, make: RolloutFunc, clock: Clock) -> RolloutFunc:
        """The rollouts of `make`, whose engine is `decode_ahead`, each batch but the first made ahead."""

        def ahead(prompts: list[Any], trainer: Any) -> dict[str, Any]:
            number = batch_of(trainer)
            now = self._flight is None or self._flight.number != number
            if now:
                self._begin(number, trainer, make, clock)
            flight = self._flight
            assert flight is not None
            began = time.perf_counter()
            with clock.phase("rollout"):
                columns = flight.land()
                trainer.accelerator.wait_for_everyone()  # before the weights that the others sample with go
            waited = time.perf_counter() - began
            if prompts != flight.prompts:
                raise RuntimeError(f"rollout.ahead: TRL dealt other rows to batch {number} than were sampled")
            self._begin(number + 1, trainer, make, clock)
            self._check(trainer, flight, now)
            clock.ahead += 0.0 if now else max(0.0, flight.seconds - waited)
            clock.count(flight.sampled, flight.samples)
            return columns

        return ahead

    def _sync(self, trainer: Any) -> None:
        if self._flight is not None:
            self._flight.wait()
        trainer.accelerator.wait_for_everyone()
        self._engine.sync_weights()

    def _check(self, trainer: Any, flight: InFlight, now: bool) -> None:
        try:
            self._engine.check(trainer, flight.samples, flight.lost, flight.loading)
        except BackendError as error:
            if now:
                raise
            raise BackendError(
                f"{error}; or the last update moved the model that far (rollout.ahead): lower learning.rate"
            ) from error

    def _begin(self, number: int, trainer: Any, make: RolloutFunc, clock: Clock) -> None:
        """Sample batch `number` from now on, with the weights of now; nothing behind the last batch."""
        self._flight = None
        rows = rows_of(trainer, number)
        if rows is not None:
            with clock.phase("sync"):
                weights = self._engine.publish(trainer)
            self._flight = InFlight(self._engine, weights, number, rows)
            self._flight.begin(trainer, make)
