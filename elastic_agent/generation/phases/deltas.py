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
    """Some new tokens of one segment; `forced` ones were not sampled. People are shown the text of `shown`,
    or of `ids` where it is None."""

    segment: Segment
    ids: tuple[int, ...]
    forced: bool = False
    shown: tuple[int, ...] | None = None


def merge_deltas(deltas: list[Delta]) -> list[Delta]:
    """Neighbours of one segment as one delta."""
    if len(deltas) < 2:
        return deltas
    merged: list[Delta] = []
    for delta in deltas:
        if merged and merged[-1].segment is delta.segment and merged[-1].forced == delta.forced:
            last, shown = merged[-1], None
            if last.shown is not None or delta.shown is not None:
                shown = tuple(
                    i for one in (last, delta) for i in (one.ids if one.shown is None else one.shown)
                )
            merged[-1] = Delta(delta.segment, last.ids + delta.ids, delta.forced, shown)
        else:
            merged.append(delta)
    return merged
