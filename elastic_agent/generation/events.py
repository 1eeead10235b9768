"""Deltas of token ids as events with text, while they stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..backends.base import Codec
from .phases.deltas import Delta, Segment
from .result import Event
from .text import IncrementalText


class EventWriter:
    """Turns a call's deltas into events.

    Args:
        codec: the model's.
        stops: strings that end the solution.
        tool_tags: the call has tools; their tags, which may be control tokens, are kept in the text.
        buffered: nobody reads along: a segment's text comes at its end, decoded once.

    Attributes:
        thinking, reopened, solution: the text of each so far.
    """

    def __init__(self, codec: Codec, stops: Sequence[str], *, tool_tags: bool, buffered: bool) -> None:
        self.thinking = IncrementalText(codec.decode, buffered=buffered)
        self.reopened = IncrementalText(codec.decode, buffered=buffered)
        decode = partial(codec.decode, tool_tags=True) if tool_tags else codec.decode
        self.solution = IncrementalText(decode, stops, buffered=buffered)
        self._in_reopened = False  # the latest of the solution was thinking

    def events(self, deltas: Sequence[Delta], *, began_call: bool) -> list[Event]:
        """The deltas as events.

        Args:
            began_call: the model had begun a tool call while it thought.
        """
        events: list[Event] = []
        for delta in deltas:
            text = ""
            if delta.segment is Segment.THINKING:
                text = self.thinking.feed(delta.shown_ids)
            elif delta.segment is Segment.REOPENED:
                text, self._in_reopened = self.reopened.feed(delta.shown_ids), True
            elif delta.segment is Segment.SOLUTION:
                if self._in_reopened:
                    self._in_reopened = False
                    events += _rest(Segment.REOPENED, self.reopened)
                text = self.solution.feed(delta.shown_ids)
            else:
                events += _rest(Segment.THINKING, self.thinking)
            began = delta.segment is Segment.CLOSE and began_call
            events.append(Event(delta.segment, text, delta.ids, delta.forced, began))
        return events

    def flush(self) -> list[Event]:
        """The call is over: text that was kept back."""
        thinking, reopened = _rest(Segment.THINKING, self.thinking), _rest(Segment.REOPENED, self.reopened)
        return [*thinking, *reopened, *_rest(Segment.SOLUTION, self.solution)]


def _rest(segment: Segment, text: IncrementalText) -> list[Event]:
    rest = text.flush()
    return [Event(segment, rest, ())] if rest else []
