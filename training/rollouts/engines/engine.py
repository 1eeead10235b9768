"""What an engine is: it samples calls under budgets, with the weights in training.

An engine decodes with the very weights in training, or with a copy of its own. A copy gets the weights in
`sync_weights`, which TRL calls before each batch of rollouts (`correction`).

Calls that are known beforehand are a `Batch`, which `decode` samples together. Those of agents are not: for
them `serving` makes a `Backend` of the engine, on which tasks run as on any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.prompts.markers import Markers

from ..rollout import Call, Rollout

MOST_ROWS = 256
"""Rows that one process decodes together, at most."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls to sample together.

    Attributes:
        context: most tokens of a sample, prompt included.
        seeds: one a call: its first pass draws with the seed, later ones with the next numbers.
    """

    calls: Sequence[Call]
    markers: Markers
    context: int
    sampling: Sampling
    seeds: Sequence[int]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came of a batch in an engine outside this process.

    Attributes:
        lost: attempts that were lost and made again.
        loading: seconds until the engine had the weights.
    """

    rollouts: list[Rollout]
    lost: int
    loading: float


Decode = Callable[[Any, Batch], list[Rollout]]
"""(trainer, batch) -> one rollout a call, in their order."""


class Sample(Protocol):
    """What was sampled, as a `Rollout` or a sequence of calls has it: aligned ids and log-probs, the latter
    None where a token was not sampled."""

    @property
    def prompt_ids(self) -> Sequence[int]: ...

    @property
    def completion_ids(self) -> Sequence[int]: ...

    @property
    def logprobs(self) -> Sequence[float | None]: ...


class Serves(Protocol):
    """What agents need of an engine.

    Attributes:
        gives_logprobs: callers must ask for log-probs (`Sampling.logprobs`), since a copy decodes; otherwise
            the weights in training do, and the trainer's own log-probs are those at sampling time.
    """

    @property
    def gives_logprobs(self) -> bool: ...

    def serving(self, trainer: Any, rows: int = MOST_ROWS) -> AbstractAsyncContextManager[Backend]:
        """Within, a Backend that samples with the weights in training.

        Call this in the trainer's thread, outside of an event loop: what is collective, or gives a copy the
        weights, happens in this call, and all processes must make it. Enter the result in the event loop in
        which the Backend is used, in any thread; the trainer's thread only waits meanwhile. Once the context
        is left, nothing touches the model any more.
        An engine of this process is left without a wait for the event loop: another thread can leave it, too,
        where an agent has blocked the loop.

        Args:
            rows: this process decodes so many calls together, at most; others wait.

        Raises:
            BackendError: when called, entered or left: the engine is lost for good, and the run must stop.
        """
        ...

    def check_served(self, trainer: Any, samples: Sequence[Sample]) -> None:
        """Log what a served batch came to; in the trainer's thread, once all of the batch is sampled.

        Raises:
            BackendError: it is of another model.
        """


class Engine(Serves, Protocol):
    """Samples for one run. Its methods are called in the order in which they stand here.

    Attributes:
        gathers: the engine reads sharded weights by itself, in `sync_weights`; for all others the run gathers
            them while the engine decodes.
    """

    @property
    def gathers(self) -> bool: ...

    def start(self, trainer: Any) -> None:
        """The trainer is made: an engine with a copy of the weights loads it now.

        Raises:
            ConfigError: the engine can't run here, or serves another model.
        """

    def sync_weights(self) -> None:
        """Give the copy the weights in training; collective, where the weights are spread over processes.

        Raises:
            BackendError: the copy did not take them: never is a batch sampled with stale weights.
        """

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        """One rollout a call, in their order.

        Raises:
            BackendError: the engine is lost for good.
        """
        ...

    def rest(self) -> None:
        """The batch is sampled: memory that the trainer can use until the next sync is given back."""

    def close(self) -> None:
        """The run is over, however it ended: give back what the engine holds."""


class OutsideBackend(Backend, Protocol):
    """A Backend outside this process.

    Attributes:
        lost: passes that were lost.
        loading: seconds until the engine had the weights.
    """

    @property
    def lost(self) -> int: ...

    @property
    def loading(self) -> float: ...


class OutsideEngine(Engine, Protocol):
    """An engine that samples elsewhere, with weights that were published: so the trainer can go on meanwhile.

    `decode` is `publish`, `sample` and `check` in a row.
    """

    def publish(self, trainer: Any) -> Any:
        """The weights as they are now, for `sample`; collective. Weights published before are gone."""
        ...

    async def sample(self, weights: Any, batch: Batch) -> Sampled:
        """One rollout a call; reads neither the model nor the trainer, so any thread may wait for it.

        Raises:
            BackendError: the engine is lost for good.
        """
        ...

    def serve(self, weights: Any) -> AbstractAsyncContextManager[OutsideBackend]:
        """`Serves.serving` with weights that were published; reads neither the model nor the trainer."""
        ...

    def check(self, trainer: Any, samples: Sequence[Sample], lost: int = 0, loading: float = 0.0) -> None:
        """Log what a batch came to.

        Args:
            lost, loading: of what `sample` and `serve` brought; see `Sampled`.

        Raises:
            BackendError: it is of another model.
        """


def whole_model(trainer: Any) -> Any:
    """The model in training, its weights all on this device: where they are sharded, the run gathers them."""
    return trainer.accelerator.unwrap_model(trainer.model)


def is_sharded(trainer: Any) -> bool:
    """Whether the processes of this trainer hold a part of the weights each."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within, the model computes as in evaluation, without dropout."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
