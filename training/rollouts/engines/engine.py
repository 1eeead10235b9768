"""What an engine is: it samples calls under budgets, with the weights in training.

An engine decodes with the very weights in training, or with a copy of its own. A copy gets the weights in
`sync_weights`, which TRL calls before each batch of rollouts (`correction`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from elastic_agent.backends.base import Sampling
from elastic_agent.prompts.markers import Markers

from ..rollout import Call, Rollout

Decode = Callable[[Any, Sequence[Call], Markers, int, Sampling, Sequence[int]], list[Rollout]]
"""(trainer, calls, markers, context, sampling, seeds) -> one rollout a call, in their order. The first pass
of a call draws with the call's seed, the second with the next number."""


class Engine(Protocol):
    """Samples for one run. Its methods are called in the order in which they stand here."""

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

    def decode(
        self,
        trainer: Any,
        calls: Sequence[Call],
        markers: Markers,
        context: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Rollout]:
        """One rollout a call, in their order; see `Decode`.

        Raises:
            BackendError: the engine is lost for good.
        """
        ...

    def rest(self) -> None:
        """The batch is sampled: memory that the trainer can use until the next sync is given back."""

    def close(self) -> None:
        """The run is over, however it ended: give back what the engine holds."""


def whole_model(trainer: Any) -> Any:
    """The model in training, its weights all on this device: where they are sharded, the run gathers them."""
    return trainer.accelerator.unwrap_model(trainer.model)
