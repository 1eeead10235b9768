"""Log-probs in buckets of sequences of like length, and without the rows that can't change the update.

Without buckets, a batch that mixes t=24 with unlimited thinking would be mostly padding. Rows whose advantage
is 0 (groups all right or all wrong) have no gradient, and are often half of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from .spans import Spans

Compute = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor | None]]
"""(ids, attention mask, tokens to keep) -> (log-probs, entropies or None), each [rows, tokens to keep]."""


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
    """The sequences, given in rising order of length, as buckets of at most `room` padded tokens each."""
    buckets: list[list[int]] = []
    for row in order:
        if buckets and (len(buckets[-1]) + 1) * lengths[row] <= room:
            buckets[-1].append(row)
        else:
            buckets.append([row])
    return buckets


def bucketed_logprobs(
    compute: Compute,
    input_ids: Tensor,
    attention_mask: Tensor,
    keep: int,
    room: int,
    *,
    sequence_ids: Tensor | None = None,
    idle: IdleRows | None = None,
    agree: Callable[[int], int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(log-probs, entropies or None) of a batch, [rows, `keep`], computed bucket by bucket.

    A bucket holds sequences, so a long row of several doesn't pad the others. What no sequence answers
    (padding, a leading prompt in the completion) has the log-prob 0.

    Args:
        compute: runs the model on a bucket.
        input_ids: [rows, prompt + `keep`].
        attention_mask: in its shape; prompts are padded on the left, completions on the right.
        keep: columns of the completions.
        room: most padded tokens of a bucket.
        sequence_ids: where rows hold several sequences; see `Spans.of`.
        idle: rows to leave out. One sequence always stays, because the loss needs a gradient, if of 0.
        agree: gets the number of buckets and returns that of passes to run: sharded weights are gathered in
            each pass, so all processes need as many. Passes beyond the buckets read two tokens, for nothing.
    """
    spans = Spans.of(attention_mask, keep, sequence_ids)
    lengths = spans.prompts + spans.answers
    order = torch.argsort(lengths).tolist()
    if idle is not None:
        rows = spans.rows.tolist()
        order = [number for number in order if not idle.idle[rows[number]]] or order[:1]
    buckets = buckets_of(order, lengths.tolist(), room)
    beyond = 0 if agree is None else agree(len(buckets)) - len(buckets)
    batch = _Batch(compute, input_ids, keep)
    found = [
        batch.run(part, int(part.prompts.max()), int(part.answers.max())) for part in map(spans.at, buckets)
    ]
    computed, at = torch.cat([part.logprobs for part in found]), torch.cat([part.places for part in found])
    for _ in range(beyond):  # 0 of them in the result, so that the backward pass goes through all
        computed = computed + 0 * batch.run(spans.at(order[:1]), 1, 1).logprobs.sum()
    rest = computed.new_zeros(len(input_ids), keep)
    if idle is not None and idle.logprobs is not None:
        rest = idle.logprobs
    every: Tensor = rest.flatten().index_copy(0, at, computed).view_as(rest)
    if found[0].entropies is None:
        return every, None
    # TRL logs the mean over all tokens: those of rows that were left out get the mean of the others
    entropies = torch.cat([part.entropies for part in found if part.entropies is not None])
    mean = entropies.mean().repeat(rest.numel())
    return every, mean.index_copy(0, at, entropies).view_as(rest)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a pass gives, a value for each token of its sequences that wants a log-prob."""

    logprobs: Tensor
    entropies: Tensor | None
    places: Tensor
    """Where the tokens stand among all tokens of the completions, counted row by row."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """The batch that passes read sequences of; see `bucketed_logprobs`."""

    compute: Compute
    input_ids: Tensor
    keep: int

    def run(self, spans: Spans, left: int, right: int) -> _Found:
        """A pass over `left` columns before and `right` columns from the first wanted token on."""
        columns, real = spans.columns(left, right)
        width, rows = self.input_ids.shape[1], spans.rows[:, None]
        ids = self.input_ids[rows, columns.clamp(0, width - 1)]
        logprobs, entropies = self.compute(ids, real.long(), right)
        wanted = real[:, left:]
        places = (rows * self.keep + columns - (width - self.keep))[:, left:][wanted]
        return _Found(logprobs[wanted], None if entropies is None else entropies[wanted], places)
