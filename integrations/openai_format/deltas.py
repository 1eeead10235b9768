"""A call's events as what people are shown: reasoning, text, tool calls.

The whitespace around thinking and solution belongs to the chat template and is left out. So a stream's deltas
add up to the same message as an `invoke`.

Tool calls are looked for in the solution only, and only when the call has tools: a model that thinks about
calling a tool has not called it. Text between a call's tags that is no call becomes an invalid tool call,
which holds the text as written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict
from uuid import uuid4

from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.result import Event
from elastic_agent.tool_calls import HERMES, ToolCallSplitter, ToolFormat, WrittenCall


class ToolCallDelta(TypedDict):
    """A whole tool call, in the shape of LangChain's `ToolCallChunk`.

    `name` is None where the model wrote no valid call; `args` is then the text as written.
    """

    name: str | None
    args: str | None
    id: str | None
    index: int | None
    type: Literal["tool_call_chunk"]


@dataclass(frozen=True, slots=True)
class Delta:
    """What an event adds to the message."""

    reasoning: str = ""
    text: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.text or self.tool_calls)


class DeltaBuilder:
    """Turns a call's events into deltas.

    Args:
        tools: the schemas of the call's tools; without tools the whole solution is text.
        format: how the model writes tool calls (`Codec.tool_format`).
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] = (), format: ToolFormat = HERMES) -> None:
        self._reasoning, self._text = _StripStream(), _StripStream()
        self._tools, self._format, self._calls = tools, format, 0
        self._last: Segment | None = None
        self._splitter = ToolCallSplitter(format, tools) if tools else None

    def feed(self, event: Event) -> Delta:
        """What the event adds; empty for the close, and for text whose meaning isn't certain yet."""
        reopened = event.segment is Segment.REOPENED and self._last is not Segment.REOPENED
        self._last = event.segment
        if event.segment in (Segment.THINKING, Segment.REOPENED):
            if reopened:
                self._reasoning.begin_line()
            return Delta(reasoning=self._reasoning.feed(event.text))
        if event.segment is Segment.CLOSE:
            if event.began_call and self._splitter is not None:
                self._splitter = ToolCallSplitter(self._format, self._tools, resumed=True)
            return Delta()
        if self._splitter is None:
            return Delta(text=self._text.feed(event.text))
        return self._delta(*self._splitter.feed(event.text))

    def flush(self) -> Delta:
        """What was still held back when the call ended."""
        return Delta() if self._splitter is None else self._delta(*self._splitter.flush())

    def _delta(self, text: str, calls: Sequence[WrittenCall]) -> Delta:
        found = [_tool_call(call, index) for index, call in enumerate(calls, self._calls)]
        self._calls += len(found)
        return Delta(text=self._text.feed(text), tool_calls=found)


def _tool_call(call: WrittenCall, index: int) -> ToolCallDelta:
    return {
        "name": call.name,
        # LangChain's lenient parser completes broken JSON into calls that the model never made. The text of
        # an invalid call begins with its tag, which no parser can complete.
        "args": call.text if call.arguments is None else json.dumps(call.arguments),
        "id": call.id or f"call_{uuid4().hex}",
        "index": index,
        "type": "tool_call_chunk",
    }


class _StripStream:
    """`str.strip` over a stream: whitespace is held back until other text follows it."""

    def __init__(self) -> None:
        self._begun = False
        self._held = ""
        self._skips = True  # leading whitespace is dropped until other text comes

    def feed(self, text: str) -> str:
        """The text that certainly belongs to the stripped whole."""
        if self._skips:
            text = text.lstrip()
            self._skips = not text
        text = self._held + text
        out = text.rstrip()
        self._begun = self._begun or bool(out)
        self._held = text[len(out) :]
        return out

    def begin_line(self) -> None:
        """Begin a new line before the next text, unless it is the first."""
        self._held, self._skips = "\n" * self._begun, True
