"""Answers of `/v1/messages` as Anthropic's JSON, whole and as events.

An answer has up to three kinds of content blocks, in this order: thinking, text, tool calls. Each event is
sent under its `type`. Beside Anthropic's fields a message has `budget`, and its usage `billed`; see
`chat_format`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

from elastic_agent.generation.phases.stop_reasons import SolutionEnd

from ...openai_format.deltas import Delta, ToolCallDelta
from .chat_format import ResponseContent
from .choices import Choice, usage

SIGNATURE = "unsigned"
"""The signature of thinking blocks. Clients want one; this gateway needs none, since it trusts no history."""
KINDS = {"thinking": "thinking_delta", "text": "text_delta"}
"""The blocks that grow, and what their deltas are called."""


class MessagesFormatter:
    """Formats one message; see `Formatter`.

    Args:
        content: what the response says; it has one answer.
        stops: the request's stop sequences.
        omit_thinking: thinking blocks are empty, as the request wants them (`thinking.display`).
    """

    ends_with_done = False

    def __init__(self, content: ResponseContent, stops: tuple[str, ...], omit_thinking: bool) -> None:
        self.content, self.stops, self.omit_thinking = content, stops, omit_thinking
        self._id = f"msg_{uuid4().hex}"
        self._blocks: list[dict[str, Any]] = []
        self._open = False  # the last block still grows

    def whole(self) -> dict[str, Any]:
        """The message."""
        (choice,) = self.content.answers
        all_of_it = Delta(choice.reasoning, choice.text, choice.tool_calls)
        for _ in (*self.delta(choice, all_of_it), *self._end_block()):
            pass
        return (
            self._message(usage([choice]))
            | self._stop(choice)
            | {
                "content": self._blocks,
                "budget": self.content.budget([choice]),
            }
        )

    def stream_start(self) -> Iterator[dict[str, Any]]:
        """A message that is still empty, and a ping, as Anthropic's streams begin."""
        yield {"type": "message_start", "message": self._message(usage(self.content.answers))}
        yield {"type": "ping"}

    def delta(self, choice: Choice, delta: Delta) -> Iterator[dict[str, Any]]:
        """Thinking and text extend their blocks; each tool call is a block at once."""
        if delta.reasoning:
            yield from self._extend("thinking", "" if self.omit_thinking else delta.reasoning)
        if delta.text:
            yield from self._extend("text", delta.text)
        for call in delta.tool_calls:
            yield from self._call(call)

    def answer_end(self, choice: Choice) -> Iterator[dict[str, Any]]:
        """The last block's end, and why the answer ended."""
        yield from self._end_block()
        yield {
            "type": "message_delta",
            "delta": self._stop(choice),
            "usage": _usage(usage([choice])),
            "budget": self.content.budget([choice]),
        }

    def stream_end(self) -> Iterator[dict[str, Any]]:
        """The stream's end."""
        yield {"type": "message_stop"}

    # Blocks

    def _extend(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        if not self._open or self._blocks[-1]["type"] != kind:
            yield from self._end_block()
            empty = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
            yield self._begin(empty)
            self._blocks.append(dict(empty))
            self._open = True
        self._blocks[-1][kind] += text
        if text:
            yield self._delta({"type": KINDS[kind], kind: text})

    def _end_block(self) -> Iterator[dict[str, Any]]:
        if not self._open:
            return
        self._open = False
        if self._blocks[-1]["type"] == "thinking":
            self._blocks[-1]["signature"] = SIGNATURE
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        yield {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _call(self, call: ToolCallDelta) -> Iterator[dict[str, Any]]:
        yield from self._end_block()
        block: dict[str, Any] = {"type": "tool_use", "id": call["id"], "name": call["name"], "input": {}}
        yield self._begin(block)
        self._blocks.append(block | {"input": _arguments(call["args"])})
        yield self._delta({"type": "input_json_delta", "partial_json": call["args"] or "{}"})
        yield {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def _begin(self, block: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_start", "index": len(self._blocks), "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}

    # The message

    def _message(self, used: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self.content.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(used),
        }

    def _stop(self, choice: Choice) -> dict[str, Any]:
        """Why the answer ended. Which of several stop sequences ended it isn't known: then none is named."""
        if choice.finish == "tool_calls":
            return {"stop_reason": "tool_use", "stop_sequence": None}
        if choice.call.result().solution_end is SolutionEnd.STOP:
            named = self.stops[0] if len(self.stops) == 1 else None
            return {"stop_reason": "stop_sequence", "stop_sequence": named}
        reason = "max_tokens" if choice.finish == "length" else "end_turn"
        return {"stop_reason": reason, "stop_sequence": None}


def _usage(chat: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's usage, where cached input is counted apart. Thinking is a part of the output."""
    cached = chat["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": chat["prompt_tokens"] - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": chat["completion_tokens"],
        "billed": chat["billed"],
    }


def _arguments(text: str | None) -> dict[str, Any]:
    """The arguments of a call as an object; what a model wrote otherwise is passed on under `arguments`."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text or "{}")
        return value if isinstance(value, dict) else {"arguments": value}
    return {"arguments": text}
