"""The engine "transformers": the weights in training decode, on the device where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.generation.machine_runner import Decoder, run_batch
from elastic_agent.prompts.markers import Markers

from ..rollout import Call, Rollout, machine_for, rollout_of
from .engine import whole_model

_MOST_ROWS = 256  # rows decoded together, on one device


def roll_out(
    decoder: Decoder,
    calls: Sequence[Call],
    markers: Markers,
    *,
    context: int,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
) -> list[Rollout]:
    """Sample every (prompt ids, budget) to its end, together; results in the order of the calls."""
    machines = [machine_for(prompt, budget, markers, context) for prompt, budget in calls]
    run_batch(decoder, machines, sampling, seeds)
    return [rollout_of(machine) for machine in machines]


def decode_in_process(
    trainer: Any,
    calls: Sequence[Call],
    markers: Markers,
    context: int,
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[Rollout]:
    """The engine "transformers": the weights in training, on the device where they are."""
    model = whole_model(trainer)
    was_training = model.training
    model.eval()
    try:
        decoder = BatchDecoder(model, max_rows=min(len(calls), _MOST_ROWS))
        return roll_out(decoder, calls, markers, context=context, sampling=sampling, seeds=seeds)
    finally:
        model.train(was_training)


class TransformersEngine:
    """The engine "transformers". It has no copy of the weights, so there is nothing to load or to sync."""

    decode = staticmethod(decode_in_process)

    def start(self, trainer: Any) -> None: ...

    def sync_weights(self) -> None: ...

    def rest(self) -> None: ...

    def close(self) -> None: ...
