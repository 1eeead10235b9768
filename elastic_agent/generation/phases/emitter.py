"""Gives out a call's tokens as deltas, once it is certain what they belong to."""

from __future__ import annotations

from collections.abc import Sequence

from ...prompts.markers import Markers
from .answer import AnswerReader, Span
from .deltas import Delta, Segment, merge_deltas


class Emitter:
    """Collects the deltas of one call.

    Attributes:
        answer_ids: ids whose text is the answer.
        in_answer: for each solution token, whether it belongs to the answer and not to reopened thinking.
        reopened: solution tokens that are reopened thinking.
    """

    def __init__(self, markers: Markers) -> None:
        self.answer_ids: list[int] = []
        self.in_answer: list[bool] = []
        self.reopened = 0
        self._reader = AnswerReader(markers)
        self._emitted = 0  # tokens of the output that have been given out
        self._deltas: list[Delta] = []

    def drain(self) -> list[Delta]:
        """The deltas since the last call of this method; neighbours of one segment joined."""
        deltas, self._deltas = merge_deltas(self._deltas), []
        return deltas

    def emit(self, segment: Segment, ids: Sequence[int], upto: int) -> None:
        """Give out the output's tokens up to `upto`.

        Args:
            ids: the whole output.
        """
        if upto > self._emitted:
            self._deltas.append(Delta(segment, tuple(ids[self._emitted : upto])))
            self._emitted = upto

    def emit_start(self, segment: Segment, ids: Sequence[int], text_ids: tuple[int, ...]) -> None:
        """Give out the tokens of a start marker, the output's first, with the text of `text_ids`."""
        if self._emitted < len(ids):
            self._deltas.append(Delta(segment, tuple(ids), text_ids=text_ids))
            self._emitted = len(ids)

    def emit_text(self, segment: Segment, text_ids: tuple[int, ...]) -> None:
        """Give out text that tokens of another segment say."""
        if text_ids:
            self._deltas.append(Delta(segment, (), text_ids=text_ids))

    def add(self, delta: Delta) -> None:
        """Give out a delta whose tokens were skipped."""
        self._deltas.append(delta)

    def skip(self, upto: int) -> None:
        """The tokens up to `upto` are given out by somebody else."""
        self._emitted = upto

    def take_solution(self, token: int) -> None:
        """Take a solution token; gives out what has become certain."""
        self._give(self._reader.take(token))

    def end_solution(self) -> bool:
        """Give out the rest; returns whether the solution ends in reopened thinking."""
        self._give(self._reader.end())
        return self._reader.inside

    def _give(self, spans: Sequence[Span]) -> None:
        for reopened, ids, text_ids in spans:
            segment = Segment.REOPENED if reopened else Segment.SOLUTION
            self._deltas.append(Delta(segment, ids, text_ids=text_ids))
            self._emitted += len(ids)
            self.in_answer += [not reopened] * len(ids)
            if reopened:
                self.reopened += len(ids)
            else:
                self.answer_ids += ids if text_ids is None else text_ids
