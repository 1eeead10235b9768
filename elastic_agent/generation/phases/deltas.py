"""Pieces of a call's output: which segment some tokens belong to."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Segment(StrEnum):
    """What a token belongs to."""

    THINKING = "thinking"
    CLOSE = "close"
    SOLUTION = "solution"
    REOPENED = "reopened"
    """Of the solution: thinking that the model opened again (`elastic_agent.generation.phases.answer`)."""


class Delta(NamedTuple):
    """Some new tokens of one segment.

    Attributes:
        forced: the tokens were not sampled.
        text_ids: ids whose text people are shown; None: `ids`.
    """

    segment: Segment
    ids: tuple[int, ...]
    forced: bool = False
    text_ids: tuple[int, ...] | None = None

    @property
    def shown_ids(self) -> tuple[int, ...]:
        """Ids whose text people are shown."""
        return self.ids if self.text_ids is None else self.text_ids


def merge_deltas(deltas: list[Delta]) -> list[Delta]:
    """The deltas with neighbours of one segment joined."""
    if len(deltas) < 2:
        return deltas
    merged: list[Delta] = []
    for delta in deltas:
        if not merged or (merged[-1].segment, merged[-1].forced) != (delta.segment, delta.forced):
            merged.append(delta)
            continue
        last, text_ids = merged[-1], None
        if last.text_ids is not None or delta.text_ids is not None:
            text_ids = (*last.shown_ids, *delta.shown_ids)
        merged[-1] = Delta(delta.segment, last.ids + delta.ids, delta.forced, text_ids)
    return merged
