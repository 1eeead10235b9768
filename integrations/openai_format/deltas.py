"""A call's events as what people are shown: reasoning, text, tool calls.

The whitespace around the two segments belongs to the template, not to the answer, and is left out; so a
merged stream is the same message as an `invoke`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elastic_agent.generation.generate import Event
from elastic_agent.generation.phases import Segment
from elastic_agent.tool_calls import HERMES, ToolCallSplitter, ToolFormat, WrittenCall

from .tool_calls import ToolCallPiece, pieces_of


@dataclass(frozen=True, slots=True)
class Piece:
    """Something new to show."""

    reasoning: str = ""
    text: str = ""
    tool_calls: list[ToolCallPiece] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.text or self.tool_calls)


class Pieces:
    """Turns events into pieces.

    Args:
        tools: the schemas of the call's tools; where it has some its solution may hold calls of them.
        format: how the model writes calls (`Codec.tool_format`).
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] = (), format: ToolFormat = HERMES) -> None:
        self._reasoning, self._text = _Trimmed(), _Trimmed()
        self._tools, self._format, self._calls = tools, format, 0
        self._last: Segment | None = None
        self._splitter = ToolCallSplitter(format, tools) if tools else None

    def feed(self, event: Event) -> Piece:
        """What an event brings; nothing when it is the close, or not certain yet."""
        again = event.segment is Segment.REOPENED and self._last is not Segment.REOPENED
        self._last = event.segment
        if event.segment in (Segment.THINKING, Segment.REOPENED):
            if again:
                self._reasoning.begin_line()
            return Piece(reasoning=self._reasoning.feed(event.text))
        if event.segment is Segment.CLOSE:
            if event.began_call and self._splitter is not None:
                self._splitter = ToolCallSplitter(self._format, self._tools, resumed=True)
            return Piece()
        if self._splitter is None:
            return Piece(text=self._text.feed(event.text))
        return self._piece(*self._splitter.feed(event.text))

    def flush(self) -> Piece:
        """What was still held back when the call ended."""
        return Piece() if self._splitter is None else self._piece(*self._splitter.flush())

    def _piece(self, text: str, calls: Sequence[WrittenCall]) -> Piece:
        pieces = pieces_of(calls, self._calls)
        self._calls += len(pieces)
        return Piece(text=self._text.feed(text), tool_calls=pieces)


class _Trimmed:
    """`str.strip` over a stream: trailing whitespace is held back until something follows it."""

    def __init__(self) -> None:
        self._begun = False
        self._held = ""
        self._skips = True  # blanks are left out until something comes

    def feed(self, text: str) -> str:
        """What has become certain."""
        if self._skips:
            text = text.lstrip()
            self._skips = not text
        text = self._held + text
        out = text.rstrip()
        self._begun = self._begun or bool(out)
        self._held = text[len(out) :]
        return out

    def begin_line(self) -> None:
        """What comes next stands on a line of its own, if it isn't the first."""
        self._held, self._skips = "\n" * self._begun, True
