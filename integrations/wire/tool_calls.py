"""Tool calls as Qwen and Hermes models write them: `<tool_call>{"name": .., "arguments": {..}}</tool_call>`.

They are looked for in the solution only, and only when the call has tools: a model that thinks about calling
a tool has not called it. A body that is not a call becomes an invalid tool call that holds the text as
written.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict
from uuid import uuid4

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class ToolCallPiece(TypedDict):
    """A tool call; of the very shape of LangChain's `ToolCallChunk`.

    `name` is None, and `args` the text as written, where the body is not a call.
    """

    name: str | None
    args: str | None
    id: str | None
    index: int | None
    type: Literal["tool_call_chunk"]


class ToolCallSplitter:
    """Streamed solution text in; plain text and whole tool calls out."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._calls = 0

    def feed(self, text: str) -> tuple[str, list[ToolCallPiece]]:
        """Take a piece; returns the text that is certainly not part of a call, and the calls it completed."""
        self._held += text
        plain, calls = "", []
        while True:
            head, tag, rest = self._held.partition(CLOSE if self._inside else OPEN)
            if not tag:
                break
            if self._inside:
                calls.append(self._call(head))
            else:
                plain += head
            self._held, self._inside = rest, not self._inside
        if not self._inside:
            keep = _overlap(self._held, OPEN)
            plain += self._held[: len(self._held) - keep]
            self._held = self._held[len(self._held) - keep :]
        return plain, calls

    def flush(self) -> tuple[str, list[ToolCallPiece]]:
        """No more text. A call without its end tag counts when its body is whole."""
        held, self._held = self._held, ""
        if not self._inside:
            return held, []
        self._inside = False
        return "", [self._call(held)]

    def _call(self, body: str) -> ToolCallPiece:
        self._calls += 1
        return tool_call(body, self._calls - 1)


def tool_call(body: str, index: int) -> ToolCallPiece:
    """What stands between the tags, as a call."""
    name, args = _parse(body)
    # JSON that does not parse must not be completed by LangChain's lenient parser into a call that the model
    # never made: with its tag in front nothing can.
    return {
        "name": name,
        "args": json.dumps(args) if args is not None else OPEN + body,
        "id": f"call_{uuid4().hex}",
        "index": index,
        "type": "tool_call_chunk",
    }


def _parse(body: str) -> tuple[str | None, dict[str, Any] | None]:
    try:
        call = json.loads(body)
        args = call.get("arguments", call.get("parameters", {}))
        args = json.loads(args) if isinstance(args, str) else args
        name = call["name"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return None, None
    return (name, args) if isinstance(name, str) and isinstance(args, dict) else (None, None)


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:n])), 0)
