"""From the calls of an episode to the sequences that the trainer computes log-probs of.

A call whose prompt begins with all ids of an earlier sequence (its prompt, and all that was written since)
extends this sequence: the model has read the same ids in the same order, so one pass of the trainer gives the
log-probs of both calls. Any other call begins a sequence of its own, with its whole prompt before it:

    call 0   p p p o o            sequence 0   p p p o o q q o o
    call 1   p p p o o q q o o    sequence 1   p p r o o
    call 2   p p r o o

A long prompt in common is no extension. Two calls that go on from the same place are none of each other: the
one that was sent first extends the sequence. A chat template that drops the thinking of earlier answers makes
a prompt that repeats only a part of what the model has read, so every call of such an agent is a sequence of
its own. In each sequence a sampled token stands behind exactly the ids that the model had read when it
sampled the token; tests hold that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ..rollouts.trl_columns import EpisodeRow
from .recorder import RecordedCall


@dataclass(slots=True)
class TokenSequence:
    """Ids that the model has read one behind the other, and which of them it has sampled itself.

    Attributes:
        ids: all of them, the leading prompt included. The lists below are as long.
        prompt: ids of the leading prompt, that of the first call.
        mask: 1 for what the policy has sampled.
        logprobs: at sampling time; None where not sampled.
        calls: the number of the call in whose output an id stands; -1 in none.
    """

    ids: list[int]
    prompt: int
    mask: list[int]
    logprobs: list[float | None]
    calls: list[int]

    @classmethod
    def begun_by(cls, prompt: list[int]) -> Self:
        n = len(prompt)
        return cls(list(prompt), n, [0] * n, [None] * n, [-1] * n)

    def begins(self, prompt: list[int]) -> bool:
        """Whether the prompt begins with all ids of this sequence."""
        n = len(self.ids)
        return n <= len(prompt) and prompt[n - 1] == self.ids[-1] and prompt[:n] == self.ids

    def add(self, number: int, call: RecordedCall) -> None:
        """Append the rest of the call's prompt, and its output."""
        rest = list(call.prompt_ids)[len(self.ids) :]
        output = zip(call.sampled, call.logprobs, strict=True)
        self.ids += [*rest, *call.output_ids]
        self.mask += [0] * len(rest) + [int(sampled) for sampled in call.sampled]
        self.logprobs += [None] * len(rest) + [logprob if sampled else None for sampled, logprob in output]
        self.calls += [-1] * len(rest) + [number] * len(call.output_ids)


def sequences_of(calls: Sequence[RecordedCall]) -> list[TokenSequence]:
    """The sequences of an episode, by the order of their first calls.

    Args:
        calls: in the order in which they were sent. Calls that sampled nothing are left out, but counted: the
            others keep their numbers.
    """
    sequences: list[TokenSequence] = []
    for number, call in enumerate(calls):
        if not any(call.sampled):
            continue
        prompt = list(call.prompt_ids)
        extended = [sequence for sequence in sequences if sequence.begins(prompt)]
        if extended:
            sequence = max(extended, key=lambda found: len(found.ids))
        else:
            sequences.append(sequence := TokenSequence.begun_by(prompt))
        sequence.add(number, call)
    return sequences


def row_of(calls: Sequence[RecordedCall]) -> EpisodeRow | None:
    """The row of an episode for the trainer; None: nothing was sampled.

    Args:
        calls: in the order in which they were sent.
    """
    return row_from(sequences_of(calls), calls)


def row_from(sequences: Sequence[TokenSequence], calls: Sequence[RecordedCall]) -> EpisodeRow | None:
    """`row_of` these calls, whose sequences are known."""
    if not sequences:
        return None
    split = sequences[0].prompt
    row = EpisodeRow(sequences[0].ids[:split], [], [], [], [], [], [call.usage.solution for call in calls])
    for k, sequence in enumerate(sequences):
        skipped = split if k == 0 else 0
        row.completion_ids.extend(sequence.ids[skipped:])
        row.env_mask.extend(sequence.mask[skipped:])
        row.logprobs.extend(sequence.logprobs[skipped:])
        row.call_ids.extend(sequence.calls[skipped:])
        leading = sequence.prompt - skipped
        row.sequence_ids.extend([2 * k] * leading + [2 * k + 1] * (len(sequence.ids) - sequence.prompt))
    return row
