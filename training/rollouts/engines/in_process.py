"""The engine "transformers": the weights in training decode, on the device where they are.

With `rollout.dtype` a copy of them in that precision decodes instead. It gets the weights in training before
each batch (`sync_weights`), and the loss is corrected for the log-probs of the copy (`correction`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from elastic_agent.backends.base import Backend
from elastic_agent.backends.decoder import Decoder
from elastic_agent.backends.transformers.attention import GROUPED
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.errors import ConfigError
from elastic_agent.generation.machine_runner import run_batch

from ...config.schema import TrainConfig
from ..rollout import Rollout, machine_for, rollout_of
from .correction import correct_for
from .engine import MOST_ROWS, Batch, Sample, evaluating, is_sharded, whole_model
from .serving import ServedModel, serving_decoder


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


def make_in_process(
    config: TrainConfig, base: str, tokenizer: Any, log: Callable[[str], None]
) -> TransformersEngine:
    """The engine of a config."""
    return TransformersEngine(config.rollout.dtype, ServedModel.of(config, tokenizer))


class TransformersEngine:
    """The engine "transformers".

    Args:
        dtype: the precision of the copy that decodes; None: no copy, the weights in training decode.
        served: what a served Backend says of its model.
    """

    gathers = False

    def __init__(self, dtype: str | None, served: ServedModel) -> None:
        self._dtype, self._served = dtype, served
        self._copy: Any = None
        self._trainer: Any = None

    @property
    def gives_logprobs(self) -> bool:
        return self._dtype is not None

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

    def serving(self, trainer: Any, rows: int = MOST_ROWS) -> AbstractAsyncContextManager[Backend]:
        """The weights in training as a Backend, in evaluation mode meanwhile; or the copy, with log-probs at
        the temperature of the sampling."""
        if self._dtype is None:
            return self._serving(whole_model(trainer), rows)
        if self._copy is None:
            self.sync_weights()
        return self._serving_decoder(self._copy, rows, tempered=True)

    @asynccontextmanager
    async def _serving(self, model: Any, rows: int) -> AsyncGenerator[Backend]:
        with evaluating(model), decoding_attention(model):
            async with self._serving_decoder(model, rows) as backend:
                yield backend

    def _serving_decoder(self, model: Any, rows: int, **options: Any) -> AbstractAsyncContextManager[Backend]:
        import torch

        # Passes without a seed have a source of their own: how often they draw depends on the clock, and what
        # TRL draws must not
        source = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        make = partial(
            BatchDecoder, model, max_rows=max(1, min(rows, MOST_ROWS)), generator=source, **options
        )
        return serving_decoder(make, self._served, model.config, next(model.parameters()).device)

    def check_served(self, trainer: Any, samples: Sequence[Sample]) -> None:
        """Nothing: these are the weights in training, or TRL logs the gap to those of the copy."""

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
