"""A call's events as what people are shown: reasoning, text, tool calls.

The whitespace around the two segments belongs to the template, not to the answer, and is left out; so a
merged stream is the same message as an `invoke`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from elastic_agent.generate import Event
from elastic_agent.integrations.wire.tool_calls import ToolCallPiece, ToolCallSplitter
from elastic_agent.phases import Segment


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
        tools: the call has tools, so its solution may hold tool calls.
    """

    def __init__(self, *, tools: bool) -> None:
        self._reasoning, self._text = _Trimmed(), _Trimmed()
        self._splitter = ToolCallSplitter() if tools else None

    def feed(self, event: Event) -> Piece:
        """What an event brings; nothing when it is the close, or not certain yet."""
        if event.segment is Segment.THINKING:
            return Piece(reasoning=self._reasoning.feed(event.text))
        if event.segment is Segment.CLOSE:
            return Piece()
        if self._splitter is None:
            return Piece(text=self._text.feed(event.text))
        text, calls = self._splitter.feed(event.text)
        return Piece(text=self._text.feed(text), tool_calls=calls)

    def flush(self) -> Piece:
        """What was still held back when the call ended."""
        if self._splitter is None:
            return Piece()
        text, calls = self._splitter.flush()
        return Piece(text=self._text.feed(text), tool_calls=calls)


class _Trimmed:
    """`str.strip` over a stream: trailing whitespace is held back until something follows it."""

    def __init__(self) -> None:
        self._begun = False
        self._held = ""

    def feed(self, text: str) -> str:
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        out = text.rstrip()
        self._begun = self._begun or bool(out)
        self._held = text[len(out) :] if self._begun else ""
        return out
