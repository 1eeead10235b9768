"""The engine "transformers": the weights in training decode, on the device where they are.

With `rollout.dtype` a copy of them in that precision decodes instead. It gets the weights in training before
each batch (`sync_weights`), and the loss is corrected for the log-probs of the copy (`correction`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from elastic_agent.backends.transformers.attention import GROUPED
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.generation.machine_runner import Decoder, run_batch

from ...config.fields import ConfigError
from ..rollout import Rollout, machine_for, rollout_of
from .correction import correct_for
from .engine import Batch, evaluating, is_sharded, whole_model

MOST_ROWS = 256  # rows decoded together, on one device


def roll_out(decoder: Decoder, batch: Batch) -> list[Rollout]:
    """Sample every call to its end, together; results in the order of the calls."""
    machines = [machine_for(prompt, budget, batch.markers, batch.context) for prompt, budget in batch.calls]
    run_batch(decoder, machines, batch.sampling, batch.seeds)
    return [rollout_of(machine) for machine in machines]


def decode_in_process(trainer: Any, batch: Batch) -> list[Rollout]:
    """The engine "transformers": the weights in training, on the device where they are."""
    model = whole_model(trainer)
    with evaluating(model), decoding_attention(model):
        return roll_out(BatchDecoder(model, max_rows=min(len(batch.calls), MOST_ROWS)), batch)


@contextmanager
def decoding_attention(model: Any) -> Iterator[None]:
    """Within, the model computes attention as the decoder needs it, with masks, whatever it trains with."""
    was = model.config._attn_implementation
    model.config._attn_implementation = GROUPED
    try:
        yield
    finally:
        model.config._attn_implementation = was


class TransformersEngine:
    """The engine "transformers".

    Args:
        dtype: the precision of the copy that decodes; None: no copy, the weights in training decode.
    """

    gathers = False

    def __init__(self, dtype: str | None = None) -> None:
        self._dtype = dtype
        self._copy: Any = None
        self._trainer: Any = None

    def start(self, trainer: Any) -> None:
        """Let TRL sync the copy, if there is one.

        Raises:
            ConfigError: a copy of weights that are spread over processes.
        """
        self._trainer = trainer
        if self._dtype is None:
            return
        if is_sharded(trainer):
            raise ConfigError("rollout.dtype: a copy to decode with needs whole weights in each process")
        correct_for(self, trainer)

    def sync_weights(self) -> None:
        """Give the copy, if there is one, the weights in training."""
        if self._dtype is None:
            return
        began = time.perf_counter()
        model = whole_model(self._trainer)
        if self._copy is None:
            self._copy = copy_in(model, self._dtype)
        else:
            copy_weights(model, self._copy)
        self._trainer.note({"rollout/sync_seconds": time.perf_counter() - began})

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        """One rollout a call; with log-probs at the temperature of the sampling if a copy decodes."""
        if self._dtype is None:
            return decode_in_process(trainer, batch)
        if self._copy is None:
            self.sync_weights()
        decoder = BatchDecoder(self._copy, max_rows=min(len(batch.calls), MOST_ROWS), tempered=True)
        return roll_out(decoder, replace(batch, sampling=replace(batch.sampling, logprobs=True)))

    def rest(self) -> None: ...

    def close(self) -> None:
        """Drop the copy."""
        self._copy = None


def copy_in(model: Any, dtype: str) -> Any:
    """A copy of a model in another precision, to decode with. Buffers, such as the frequencies of rotary
    positions, keep theirs."""
    import torch

    def narrow(parameter: Any) -> Any:
        return torch.nn.Parameter(
            parameter.detach().to(getattr(torch, dtype), copy=True), requires_grad=False
        )

    made = copy.deepcopy(model, {id(parameter): narrow(parameter) for parameter in model.parameters()})
    made.config._attn_implementation = GROUPED
    for module in made.modules():  # what accelerate and TRL put around a forward calls the model in training
        module.__dict__.pop("forward", None)
    return made.eval()


def copy_weights(model: Any, into: Any) -> None:
    """Give a copy (`copy_in`) the weights that the model has now."""
    import torch

    with torch.no_grad():
        for new, old in zip(model.parameters(), into.parameters(), strict=True):
            old.copy_(new)
