"""Log-probs in buckets of rows of like length, and without the rows that can't change the update.

Without buckets, a batch that mixes t=24 with unlimited thinking would be mostly padding. Rows whose advantage
is 0 (groups all right or all wrong) have no gradient, and are often half of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

Compute = Callable[[list[int], slice, int], tuple[Tensor, Tensor | None]]
"""(rows, columns, tokens to keep) -> (log-probs, entropies or None), each [rows, tokens to keep]."""


@dataclass(frozen=True, slots=True)
class IdleRows:
    """The rows of an update whose advantage is 0."""

    idle: list[bool]
    """Of each row."""
    logprobs: Any
    """Log-probs that stand in for those of idle rows, [rows, tokens]; None: zeros."""

    @classmethod
    def of(cls, advantages: Tensor, logprobs: Any) -> Self:
        """From the advantages of a batch, one a row or one a token."""
        return cls((advantages.reshape(len(advantages), -1) == 0).all(1).tolist(), logprobs)


def buckets_of(order: Sequence[int], lengths: Sequence[int], room: int) -> list[list[int]]:
    """The rows, given in rising order of length, as buckets of at most `room` padded tokens each."""
    buckets: list[list[int]] = []
    for row in order:
        if buckets and (len(buckets[-1]) + 1) * lengths[row] <= room:
            buckets[-1].append(row)
        else:
            buckets.append([row])
    return buckets


def bucketed_logprobs(
    compute: Compute,
    attention_mask: Tensor,
    keep: int,
    room: int,
    idle: IdleRows | None,
    agree: Callable[[int], int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(log-probs, entropies or None) of a batch, [rows, `keep`], computed bucket by bucket.

    Args:
        compute: runs the model on some rows and columns of the batch.
        attention_mask: [rows, prompt + `keep`]; prompts are padded on the left, completions on the right.
        keep: columns of the completions.
        room: most padded tokens of a bucket.
        idle: rows to leave out. One row always stays, because the loss needs a gradient, if of 0.
        agree: gets the number of buckets and returns that of passes to run: sharded weights are gathered in
            each pass, so all processes need as many. Passes beyond the buckets read two tokens, for nothing.
    """
    prompts, answers = attention_mask[:, :-keep].sum(1), attention_mask[:, -keep:].sum(1)
    order = torch.argsort(prompts + answers).tolist()
    if idle is not None:
        order = [row for row in order if not idle.idle[row]] or order[:1]
    split = attention_mask.shape[1] - keep
    parts: list[Tensor] = []
    entropy_parts: list[Tensor] = []
    done: list[int] = []
    buckets = buckets_of(order, (prompts + answers).tolist(), room)
    beyond = 0 if agree is None else agree(len(buckets)) - len(buckets)
    for rows in buckets:
        left, right = int(prompts[rows].max()), int(answers[rows].max())
        logprobs, entropies = compute(rows, slice(split - left, split + right), right)
        parts.append(_widened(logprobs, keep))
        entropy_parts += [] if entropies is None else [_widened(entropies, keep)]
        done += rows
    at = torch.tensor(done, device=attention_mask.device)
    computed = torch.cat(parts)
    for _ in range(beyond):  # 0 of them in the result, so that the backward pass goes through all
        computed = computed + 0 * compute(order[:1], slice(split - 1, split + 1), 1)[0].sum()
    rest = computed.new_zeros(len(attention_mask), keep)
    if idle is not None and idle.logprobs is not None:
        rest = idle.logprobs
    every: Tensor = rest.index_copy(0, at, computed)
    if not entropy_parts:
        return every, None
    # TRL logs the mean over all tokens: rows that were left out get the mean of the others
    found, real = torch.cat(entropy_parts), attention_mask[at, -keep:]
    mean = (found * real).sum() / real.sum().clamp(min=1)
    return every, mean.expand_as(rest).index_copy(0, at, found)


def _widened(values: Tensor, columns: int) -> Tensor:
    """The values with zeros on the right, `columns` wide."""
    return torch.nn.functional.pad(values, (0, columns - values.shape[1]))
