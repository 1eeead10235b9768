"""What one micro-batch of the longest rows holds, from a forward and a backward pass without numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .shapes import Shapes


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one backward pass, all of the longest length.

    Attributes:
        together: rows of one forward pass: as many as `device.bucket_tokens` allows.
        autocast: matrices are multiplied in bfloat16.
        gradients: they are made in this pass, and count in its peak. With several micro-batches an update
            they are there before; where weights are sharded they leave as soon as they are made.
        gpu: the head is computed by a kernel, and not by operations with results of their own.
    """

    rows: int
    together: int
    tokens: int
    autocast: bool
    gradients: bool
    gpu: bool


@dataclass(frozen=True, slots=True)
class UpdateBytes:
    """Bytes of a micro-batch, beside weights and optimizer."""

    kept: int
    """Activations that wait for the backward pass."""
    peak: int
    """Most at a time: the kept ones, and what is being computed."""


def update_bytes(shapes: Shapes, batch: MicroBatch, *, checkpointing: bool) -> UpdateBytes:
    """What a micro-batch holds. All its forward passes are alike, so one is computed.

    Raises:
        ConfigError: what the architecture computes depends on numbers.
    """
    model, rows, tokens = shapes.model, batch.together, batch.tokens
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if checkpointing:
        model.gradient_checkpointing_enable()
    else:
        model.gradient_checkpointing_disable()
    model.train()
    hooks = [] if batch.gradients else [p.register_post_accumulate_grad_hook(_drop) for p in parameters]
    with shapes.counted() as live, _head(on_gpu=batch.gpu):
        ids = torch.zeros(rows, tokens, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=batch.autocast):
            output = model(
                input_ids=ids, attention_mask=shapes.mask(rows, tokens), labels=ids, fused_lm_head=True
            )
        loss, kept = output.log_probs.sum(), live.now
        del output
        loss.backward()
    for parameter in parameters:
        parameter.grad = None
    for hook in hooks:
        hook.remove()
    others = round(kept * (batch.rows / rows - 1))
    return UpdateBytes(kept + others, live.peak + others)


def _drop(parameter: Any) -> None:
    parameter.grad = None


@contextmanager
def _head(*, on_gpu: bool) -> Iterator[None]:
    """Within, TRL's head holds what it holds on that device: on GPUs its kernels work in place."""
    if not on_gpu:
        yield
        return
    from trl.kernels import chunked_logprob as head

    before = {name: getattr(head, name) for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")}
    for name in before:
        setattr(head, name, _nothing)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(head, name, function)


def _nothing(*_: Any, **__: Any) -> None:
    """A kernel that works in place makes no tensor."""
