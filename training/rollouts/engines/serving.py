"""Serves an engine of this process as a `Backend`, for a batch of agents' calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from elastic_agent.backends.base import Backend, Codec
from elastic_agent.backends.decoder import Decoder
from elastic_agent.backends.decoder_backend import DecoderBackend

from ...config.schema import TrainConfig
from ..prompts import codec_of


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a served Backend says of its model.

    Attributes:
        name: that of the base, for prices, curves and logs: it is the same for all weights of a run.
        context: most tokens of a sequence, where the model has room for them.
    """

    name: str
    codec: Codec
    context: int

    @classmethod
    def of(cls, config: TrainConfig, tokenizer: Any) -> ServedModel:
        """What a config says."""
        return cls(config.base, codec_of(tokenizer, config.named_markers), config.rollout.context)


@asynccontextmanager
async def serving_decoder(
    make: Callable[[], Decoder], model: ServedModel, architecture: Any, device: Any
) -> AsyncGenerator[Backend]:
    """A Backend over a decoder, whose thread has ended when this is left, however this is left.

    Args:
        architecture: the model's config, of transformers.
        device: that of the weights: torch's current device is each thread's own.
    """
    import torch

    most = getattr(architecture, "max_position_embeddings", None)
    backend = DecoderBackend(
        make,
        model.codec,
        name=model.name,
        context_length=model.context if most is None else min(model.context, int(most)),
        vocabulary=int(architecture.vocab_size),
        prepare=partial(torch.cuda.set_device, device) if device.type == "cuda" else None,
    )
    try:
        yield backend
    finally:
        backend.stop()  # not `aclose`, which could be cancelled before the thread has ended
