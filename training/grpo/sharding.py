"""Weights of which each process holds a part (FSDP2, ZeRO-3): gathered to decode.

A gathering is a collective operation: all processes must begin it, equally often. So the weights are gathered
once for all rollouts of a batch, in which the processes decode as many tokens as they like; and where a
forward pass gathers them layer by layer, all processes run as many passes (`most_of_all`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..rollouts.engines.engine import is_sharded
from ..rollouts.trl_columns import RolloutFunc


def most_of_all(count: int, device: Any) -> int:
    """The largest `count` of all processes."""
    import torch
    from torch import distributed

    most = torch.tensor(count, device=device)
    distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
    return int(most)


@contextmanager
def whole_weights(trainer: Any) -> Iterator[None]:
    """Within, each process holds all weights in the precision that it computes in, sharded or not."""
    if not is_sharded(trainer):
        yield
        return
    if trainer.is_deepspeed_enabled:
        from trl.models import unwrap_model_for_generation

        again = trainer.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=again
        ):
            yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in trainer.model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True)


def on_whole_weights(rollout: RolloutFunc) -> RolloutFunc:
    """The same rollouts, for which the weights are gathered once a batch where they are sharded."""

    def gathered(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        with whole_weights(trainer):
            return rollout(prompts, trainer)

    return gathered
