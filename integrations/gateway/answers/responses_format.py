"""Responses of `/v1/responses` as OpenAI's JSON, whole and as events.

An answer has up to three kinds of items, in this order: the reasoning, a message, and function calls. Where
the request asks for a summary of the reasoning, the summary is all of the thinking; else the thinking is the
item's text. Each event is sent under its `type`, and is numbered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from ...openai_format.deltas import Delta
from .chat_format import ResponseContent, logprobs
from .choices import Choice, usage

ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
}
"""Fields of the request that a response repeats, and their values where they were not sent."""


class ResponsesFormatter:
    """Formats one response; see `Formatter`.

    Args:
        content: what the response says; it has one answer.
        request: the request's body.
    """

    ends_with_done = False

    def __init__(self, content: ResponseContent, request: Mapping[str, Any]) -> None:
        self.content = content
        self._tail = uuid4().hex
        self._head: dict[str, Any] = {
            "id": f"resp_{self._tail}",
            "object": "response",
            "created_at": int(time.time()),
            "background": False,
            "error": None,
            "model": content.model,
            "previous_response_id": None,
            "store": False,
            **{name: request.get(name, default) for name, default in ECHOED.items()},
        }
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] | None = None  # the item that still grows, if any
        self._part: dict[str, Any] = {}  # of that item, what grows
        self._number = 0
        self._summed = bool((request.get("reasoning") or {}).get("summary"))

    def whole(self) -> dict[str, Any]:
        """The response."""
        (choice,) = self.content.answers
        all_of_it = Delta(choice.reasoning, choice.text, choice.tool_calls)
        for _ in (*self.delta(choice, all_of_it), *self.answer_end(choice)):
            pass
        return self._response(choice)

    def stream_start(self) -> Iterator[dict[str, Any]]:
        """The events of a response that is still empty."""
        empty = self._head | {
            "status": "in_progress",
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }
        yield self._event("response.created", response=empty)
        yield self._event("response.in_progress", response=empty)

    def delta(self, choice: Choice, delta: Delta) -> Iterator[dict[str, Any]]:
        """Reasoning and text extend their items; each tool call is an item at once."""
        if delta.reasoning:
            yield from self._extend_item("reasoning", delta.reasoning)
        if delta.text:
            yield from self._extend_item("message", delta.text)
        for call in delta.tool_calls:
            yield from self._end_item()
            about = {"call_id": call["id"], "name": call["name"]}
            added = {"type": "function_call", "id": self._id("fc"), **about, "arguments": ""}
            item = added | {"arguments": call["args"], "status": "completed"}
            place = {"item_id": item["id"], "output_index": len(self._output)}
            yield self._event(
                "response.output_item.added",
                output_index=len(self._output),
                item=added | {"status": "in_progress"},
            )
            yield self._event("response.function_call_arguments.delta", **place, delta=call["args"])
            yield self._event(
                "response.function_call_arguments.done", **place, name=call["name"], arguments=call["args"]
            )
            yield self._event("response.output_item.done", output_index=len(self._output), item=item)
            self._output.append(item)

    def answer_end(self, choice: Choice) -> Iterator[dict[str, Any]]:
        """The events that end the last item and the response."""
        kinds = {item["type"] for item in (*self._output, *([self._item] if self._item else ()))}
        if kinds <= {"reasoning"}:
            yield from self._extend_item("message", "")
        if self.content.logprobs and self._item is not None and self._item["type"] == "message":
            self._part["logprobs"] = logprobs(choice, self.content.codec)
        yield from self._end_item("completed" if choice.finish != "length" else "incomplete")
        response = self._response(choice)
        yield self._event(f"response.{response['status']}", response=response)

    def stream_end(self) -> Iterator[dict[str, Any]]:
        """Nothing: the response's end is the last event."""
        return iter(())

    # Items

    def _extend_item(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        if self._item is None or self._item["type"] != kind:
            yield from self._end_item()
            yield from self._start_item(kind)
        assert self._item is not None
        self._part["text"] += text
        if self._item["type"] == "reasoning" and self._summed:
            yield self._event("response.reasoning_summary_text.delta", **self._place(), delta=text)
        elif kind == "message":
            yield self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])
        else:
            yield self._event("response.reasoning_text.delta", **self._place(), delta=text)

    def _start_item(self, kind: str) -> Iterator[dict[str, Any]]:
        item: dict[str, Any]
        part: dict[str, Any]
        if kind == "message":
            item = {"type": kind, "id": self._id("msg"), "role": "assistant"}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        else:
            item = {"type": kind, "id": self._id("rs"), "summary": []}
            part = {"type": "summary_text" if self._summed else "reasoning_text", "text": ""}
        item |= {"status": "in_progress"}
        yield self._event(
            "response.output_item.added", output_index=len(self._output), item=item | {"content": []}
        )
        if part["type"] == "summary_text":
            self._item, self._part = item | {"content": [], "summary": [part]}, part
            yield self._event("response.reasoning_summary_part.added", **self._place(), part=dict(part))
        else:
            self._item, self._part = item | {"content": [part]}, part
            yield self._event("response.content_part.added", **self._place(), part=dict(part))

    def _end_item(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        if self._item is None:
            return
        item, place, part = self._item | {"status": status}, self._place(), self._part
        if part["type"] == "summary_text":
            yield self._event("response.reasoning_summary_text.done", **place, text=part["text"])
            yield self._event("response.reasoning_summary_part.done", **place, part=part)
        elif item["type"] == "message":
            yield self._event(
                "response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"]
            )
        else:
            yield self._event("response.reasoning_text.done", **place, text=part["text"])
        if part["type"] != "summary_text":
            yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._item = None

    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        index = "summary_index" if self._part["type"] == "summary_text" else "content_index"
        return {"item_id": self._item["id"], "output_index": len(self._output), index: 0}

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._tail}{len(self._output)}"

    # The response

    def _response(self, choice: Choice) -> dict[str, Any]:
        cut = choice.finish == "length"
        return self._head | {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output,
            "usage": _usage(choice),
            "budget": self.content.budget([choice]),
        }

    def _event(self, type: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": type, "sequence_number": self._number - 1, **fields}


def _usage(choice: Choice) -> dict[str, Any]:
    chat = usage([choice])
    return {
        "input_tokens": chat["prompt_tokens"],
        "input_tokens_details": {**chat["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": chat["completion_tokens_details"],
        "total_tokens": chat["total_tokens"],
        "billed": chat["billed"],
    }
