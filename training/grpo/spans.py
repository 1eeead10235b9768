"""Which columns of a batch belong together: the sequences of its rows.

A row of a single call is one sequence: its prompt, which ends where the completions begin, and its
completion. An episode's row may hold several (`elastic_agent.training.agents.sequences`): the context of the
first one is the row's prompt, that of another is its own leading prompt alone, whatever stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Spans:
    """The sequences of a batch, [sequences] each: tokens in the columns `first` to `end` of a row, of which
    those from `answer` on want log-probs."""

    rows: Tensor
    first: Tensor
    answer: Tensor
    end: Tensor

    @classmethod
    def of(cls, attention_mask: Tensor, keep: int, sequence_ids: Tensor | None) -> Self:
        """The sequences of a batch, row by row.

        Args:
            attention_mask: [rows, prompt + `keep`]; prompts are padded on the left, completions on the right.
            keep: columns of the completions.
            sequence_ids: [rows, at most `keep`]; 2k for the leading prompt of a row's sequence k, 2k + 1 for
                all else of it, -1 behind the completion. None: each row is one sequence.
        """
        prompts, answers = attention_mask[:, :-keep].sum(1), attention_mask[:, -keep:].sum(1)
        split = torch.full_like(prompts, attention_mask.shape[1] - keep)
        if sequence_ids is None:
            return cls(torch.arange(len(split), device=split.device), split - prompts, split, split + answers)
        found: list[tuple[int, int, int, int]] = []
        for row, (ids, prompt) in enumerate(zip(sequence_ids.cpu(), prompts.tolist(), strict=True)):
            answer = attention_mask.shape[1] - keep
            first = answer - prompt
            kinds, counts = torch.unique_consecutive(ids[ids >= 0], return_counts=True)
            for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
                if kind % 2 == 0:
                    answer = first + count
                    continue
                end = answer + count
                found.append((row, first, answer, end))
                first = answer = end
        return cls(*torch.tensor(found, device=attention_mask.device).unbind(1))

    @property
    def prompts(self) -> Tensor:
        """Tokens before those that want log-probs."""
        return self.answer - self.first

    @property
    def answers(self) -> Tensor:
        return self.end - self.answer

    def at(self, numbers: Sequence[int]) -> Spans:
        """Some of them."""
        wanted = list(numbers)
        return Spans(self.rows[wanted], self.first[wanted], self.answer[wanted], self.end[wanted])

    def columns(self, left: int, right: int) -> tuple[Tensor, Tensor]:
        """Columns around each `answer`, [sequences, left + right]; and which of them are the sequence's."""
        columns = self.answer[:, None] + torch.arange(-left, right, device=self.answer.device)
        return columns, (columns >= self.first[:, None]) & (columns < self.end[:, None])


def joined(lists: Sequence[Sequence[int]], device: torch.device | str | None = None) -> Tensor:
    """The lists as one tensor, -1 where a list is shorter than the longest."""
    width = max(len(found) for found in lists)
    return torch.tensor([[*found, *[-1] * (width - len(found))] for found in lists], device=device)
