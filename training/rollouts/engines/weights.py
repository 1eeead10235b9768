"""The weights in training as a checkpoint would have them, one at a time, for an engine with its own copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def named_weights(trainer: Any) -> Iterator[tuple[str, Any]]:
    """(name in a checkpoint, tensor) of every weight; adapters are merged into the weights they belong to.

    TRL gathers a weight of FSDP2 or ZeRO-3 when its turn comes, so all processes must iterate to the end.
    Adapters stay merged until the iteration ends. TRL's iterator is a method of the object that also starts
    vLLM; the object made here has what the iterator reads, and nothing else.
    """
    from torch.distributed.fsdp import FSDPModule
    from trl.distributed import DistributedBackend
    from trl.generation.vllm_generation import VLLMGeneration

    source: Any = VLLMGeneration.__new__(VLLMGeneration)
    source.model = trainer.accelerator.unwrap_model(trainer.model)
    source.accelerator = trainer.accelerator
    source._dist = DistributedBackend(trainer.accelerator)
    parts = [part for part in source.model.modules() if isinstance(part, FSDPModule)]
    if not parts:
        source._dist.fsdp_version = None  # FSDP2 shards when training begins; an engine starts before
    for part in parts:
        part.reshard()  # a forward pass without a backward one leaves the outermost weights gathered
    yield from source._iter_named_params()
