"""Answers as OpenAI's JSON: chat completions and completions, whole and as chunks.

Reasoning is shown as vLLM shows it, under both of its names. A stream's last chunk before `[DONE]` has the
usage, where the client asked for it; the chunk that ends an answer has the `budget`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from elastic_agent.backends.base import Codec
from elastic_agent.integrations.gateway.choices import Choice
from elastic_agent.integrations.wire.pieces import Piece


class Format(Protocol):
    """How an endpoint writes answers."""

    object: str
    chunk_object: str
    prefix: str

    def first(self, choice: Choice) -> dict[str, Any] | None:
        """The chunk that opens an answer, if there is one."""
        ...

    def delta(self, choice: Choice, piece: Piece) -> dict[str, Any]:
        """A chunk's choice."""
        ...

    def last(self, choice: Choice, codec: Codec, *, logprobs: bool) -> dict[str, Any]:
        """The choice of the chunk that ends an answer."""
        ...

    def whole(self, choice: Choice, codec: Codec, *, logprobs: bool) -> dict[str, Any]:
        """A whole answer's choice."""
        ...


class Chat:
    """`/v1/chat/completions`."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def first(self, choice: Choice) -> dict[str, Any] | None:
        return {"index": choice.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def delta(self, choice: Choice, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning"] = delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        if piece.tool_calls:
            delta["tool_calls"] = [{"index": call["index"], **_call(call)} for call in piece.tool_calls]
        return {"index": choice.index, "delta": delta, "finish_reason": None}

    def last(self, choice: Choice, codec: Codec, *, logprobs: bool) -> dict[str, Any]:
        end: dict[str, Any] = {"index": choice.index, "delta": {}, "finish_reason": choice.finish}
        return end | ({"logprobs": self._logprobs(choice, codec)} if logprobs else {})

    def whole(self, choice: Choice, codec: Codec, *, logprobs: bool) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if choice.tool_calls and not choice.text else choice.text,
            "refusal": None,
        }
        if choice.reasoning:
            message["reasoning"] = message["reasoning_content"] = choice.reasoning
        if choice.tool_calls:
            message["tool_calls"] = [_call(call) for call in choice.tool_calls]
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice, codec) if logprobs else None,
            "finish_reason": choice.finish,
        }

    @staticmethod
    def _logprobs(choice: Choice, codec: Codec) -> dict[str, Any]:
        found = []
        for token, value in choice.logprobs():
            text = codec.decode([token])
            found.append(
                {
                    "token": text,
                    "logprob": value,
                    "bytes": list(text.encode(errors="replace")),
                    "top_logprobs": [],
                }
            )
        return {"content": found, "refusal": None}


class Completion:
    """`/v1/completions`: the text is the solution; the thinking stands beside it."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def first(self, choice: Choice) -> dict[str, Any] | None:
        return None

    def delta(self, choice: Choice, piece: Piece) -> dict[str, Any]:
        thought = {"reasoning": piece.reasoning} if piece.reasoning else {}
        return {"index": choice.index, "text": piece.text, "logprobs": None, "finish_reason": None} | thought

    def last(self, choice: Choice, codec: Codec, *, logprobs: bool) -> dict[str, Any]:
        found = self._logprobs(choice, codec) if logprobs else None
        return {"index": choice.index, "text": "", "logprobs": found, "finish_reason": choice.finish}

    def whole(self, choice: Choice, codec: Codec, *, logprobs: bool) -> dict[str, Any]:
        return self.last(choice, codec, logprobs=logprobs) | {
            "text": choice.text,
            "reasoning": choice.reasoning or None,
        }

    @staticmethod
    def _logprobs(choice: Choice, codec: Codec) -> dict[str, Any]:
        pairs = choice.logprobs()
        texts = [codec.decode([token]) for token, _ in pairs]
        offsets = list(accumulate(map(len, texts), initial=0))[:-1]
        values = [value for _, value in pairs]
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["args"]}
    return {"id": call["id"], "type": "function", "function": function}


def budget(choices: Sequence[Choice], task: str | None, left: Mapping[str, float]) -> dict[str, Any]:
    """What was granted, used and refunded, by answer, and what is left of the task, or of the key."""
    names = ("granted", "used", "refund", "usd", "thinking_end", "solution_end", "outcome", "reason")
    calls = []
    for choice in choices:
        told = choice.call.report().to_dict()
        calls.append({"index": choice.index, **{name: told[name] for name in names}})
    return {"task": task, "calls": calls, "left": dict(left)}


def pairs(numbers: Mapping[str, Any]) -> str:
    """Numbers as a header's value: "thinking=256, solution=128"."""
    return ", ".join(f"{name}={value}" for name, value in numbers.items())
