"""What the decoder in this process holds, from its passes without numbers: keys, values, and one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from elastic_agent.backends.transformers.decode import PREFILL_TOKENS
from elastic_agent.backends.transformers.slots import Slots, power_of_two

from ..rollouts.engines.in_process import decoding_attention
from .shapes import Shapes


@dataclass(frozen=True, slots=True)
class SamplingBytes:
    """Bytes of a decoder at its fullest, beside the weights."""

    cache: int
    """Keys and values."""
    work: int
    """The largest pass: prompts that are read, or one token a row and its logits."""
    slots: int
    room: int
    """Tokens a slot."""


def sampling_bytes(
    shapes: Shapes, *, calls: int, most: int, context: int, prompt: int, autocast: bool
) -> SamplingBytes:
    """What decoding `calls` calls holds.

    Args:
        most: rows decoded together.
        prompt: tokens of the longest prompt.
    """
    rows = min(calls, most)
    cache, step = _pass(shapes, rows, 1, context, autocast)
    width = min(prompt, PREFILL_TOKENS)
    reading = min(rows, max(1, PREFILL_TOKENS // width))
    small, prefill = _pass(shapes, reading, width, prompt, autocast)
    slots, room = power_of_two(rows), power_of_two(context)
    if calls <= most:  # all prompts are read before there is much else
        share = slots / power_of_two(reading)
        prefill = max(0, round(small * share) + prefill - cache)
    return SamplingBytes(cache, max(step, prefill), slots, room)


def _pass(shapes: Shapes, rows: int, new: int, span: int, autocast: bool) -> tuple[int, int]:
    """(keys and values, all else at its peak) of a pass in which each of the rows reads `new` tokens."""
    slots: Any = Slots(slots=power_of_two(rows), room=power_of_two(span))
    shapes.model.eval()
    with shapes.counted() as live, torch.inference_mode(), decoding_attention(shapes.model):
        slots.positions = torch.zeros(rows, new, dtype=torch.long)
        slots.span = span
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = shapes.model(
                input_ids=torch.zeros(rows, new, dtype=torch.long),
                attention_mask=torch.zeros(rows, 1, new, span, dtype=torch.bool),
                position_ids=slots.positions,
                past_key_values=slots,
                use_cache=True,
                logits_to_keep=1,
            ).logits.float()
            drawn = [logits / 1.0 for _ in range(2)]  # what a draw makes of the logits
        del drawn
        cache = sum(t.nbytes for store in (slots.keys, slots.values) for t in store.values())
    return cache, live.peak - cache
