"""What an engine is: it samples calls under budgets, with the weights in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.prompts.markers import Markers

from ..rollout import Call, Rollout

Engine = Callable[[Any, Sequence[Call], Markers, int, Sampling, Sequence[int]], list[Rollout]]
"""(trainer, calls, markers, context, sampling, seeds) -> one rollout a call, in their order. The first pass
of a call draws with the call's seed, the second with the next number."""


def whole_model(trainer: Any) -> Any:
    """The model in training, its weights all on this device.

    Raises:
        RuntimeError: FSDP or DeepSpeed may have spread them.
    """
    if getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False):
        raise RuntimeError(
            "rollouts need whole weights on each device, and FSDP or DeepSpeed may have spread them: launch "
            "without, and train with lora where memory is short"
        )
    return trainer.accelerator.unwrap_model(trainer.model)
