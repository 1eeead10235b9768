"""Answers as OpenAI's JSON: chat completions and completions, whole and as chunks.

Reasoning is shown as vLLM shows it, under both of its names. A stream's last chunk before `[DONE]` has the
usage, where the client asked for it; the chunk that ends an answer has the `budget`. The Responses API is in
`response_answer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol
from uuid import uuid4

from elastic_agent.backends.base import Codec

from ...openai_format.deltas import Delta
from ..serving.choices import Choice, usage


@dataclass(frozen=True, slots=True)
class Said:
    """What there is to write.

    Attributes:
        answers: the calls.
        model: what the client calls it.
        logprobs: of the solution's tokens, too.
        usage: at the end of a stream, too.
        budget: of some of the answers, what was granted and used.
    """

    answers: Sequence[Choice]
    model: str
    codec: Codec
    logprobs: bool
    usage: bool
    budget: Callable[[Sequence[Choice]], dict[str, Any]]


class Format(Protocol):
    """How an endpoint writes an exchange. Made for one of them; events are JSON objects, and one that has a
    `type` is sent under that name."""

    done: bool
    """A stream ends with `[DONE]`."""

    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ...

    def begin(self) -> Iterable[dict[str, Any]]:
        """The events that open a stream."""
        ...

    def piece(self, choice: Choice, piece: Delta) -> Iterable[dict[str, Any]]:
        """The events of something new."""
        ...

    def end(self, choice: Choice) -> Iterable[dict[str, Any]]:
        """The events that end an answer."""
        ...

    def finish(self) -> Iterable[dict[str, Any]]:
        """The events that end a stream."""
        ...


class _Choices:
    """What chat completions and completions share."""

    object = chunk_object = prefix = ""
    done = True

    def __init__(self, said: Said) -> None:
        self.said = said
        self._id, self._created = f"{self.prefix}-{uuid4().hex}", int(time.time())

    def whole(self) -> dict[str, Any]:
        said = self.said
        return self._under(self.object) | {
            "choices": [self._answer(choice) for choice in said.answers],
            "usage": usage(said.answers),
            "budget": said.budget(said.answers),
        }

    def begin(self) -> Iterator[dict[str, Any]]:
        for choice in self.said.answers:
            if (opening := self._first(choice)) is not None:
                yield self._chunk(opening)

    def piece(self, choice: Choice, piece: Delta) -> Iterator[dict[str, Any]]:
        yield self._chunk(self._delta(choice, piece))

    def end(self, choice: Choice) -> Iterator[dict[str, Any]]:
        yield self._chunk(self._last(choice)) | {"budget": self.said.budget([choice])}

    def finish(self) -> Iterator[dict[str, Any]]:
        if self.said.usage:
            yield self._under(self.chunk_object) | {"choices": [], "usage": usage(self.said.answers)}

    def _under(self, object: str) -> dict[str, Any]:
        return {"id": self._id, "object": object, "created": self._created, "model": self.said.model}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._under(self.chunk_object) | {"choices": [choice]}

    def _first(self, choice: Choice) -> dict[str, Any] | None:
        """The choice that opens an answer, if there is one."""
        raise NotImplementedError

    def _delta(self, choice: Choice, piece: Delta) -> dict[str, Any]:
        raise NotImplementedError

    def _last(self, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError

    def _answer(self, choice: Choice) -> dict[str, Any]:
        raise NotImplementedError


class Chat(_Choices):
    """`/v1/chat/completions`."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _first(self, choice: Choice) -> dict[str, Any] | None:
        return {"index": choice.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def _delta(self, choice: Choice, piece: Delta) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning"] = delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        if piece.tool_calls:
            delta["tool_calls"] = [{"index": call["index"], **_call(call)} for call in piece.tool_calls]
        return {"index": choice.index, "delta": delta, "finish_reason": None}

    def _last(self, choice: Choice) -> dict[str, Any]:
        end: dict[str, Any] = {"index": choice.index, "delta": {}, "finish_reason": choice.finish}
        return end | ({"logprobs": self._logprobs(choice)} if self.said.logprobs else {})

    def _answer(self, choice: Choice) -> dict[str, Any]:
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
            "logprobs": self._logprobs(choice) if self.said.logprobs else None,
            "finish_reason": choice.finish,
        }

    def _logprobs(self, choice: Choice) -> dict[str, Any]:
        return {"content": logprobs(choice, self.said.codec), "refusal": None}


class Completion(_Choices):
    """`/v1/completions`: the text is the solution; the thinking stands beside it."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def _first(self, choice: Choice) -> dict[str, Any] | None:
        return None

    def _delta(self, choice: Choice, piece: Delta) -> dict[str, Any]:
        thought = {"reasoning": piece.reasoning} if piece.reasoning else {}
        return {"index": choice.index, "text": piece.text, "logprobs": None, "finish_reason": None} | thought

    def _last(self, choice: Choice) -> dict[str, Any]:
        found = self._logprobs(choice) if self.said.logprobs else None
        return {"index": choice.index, "text": "", "logprobs": found, "finish_reason": choice.finish}

    def _answer(self, choice: Choice) -> dict[str, Any]:
        return self._last(choice) | {"text": choice.text, "reasoning": choice.reasoning or None}

    def _logprobs(self, choice: Choice) -> dict[str, Any]:
        pairs = choice.logprobs()
        texts = [self.said.codec.decode([token]) for token, _ in pairs]
        offsets = list(accumulate(map(len, texts), initial=0))[:-1]
        values = [value for _, value in pairs]
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}


def logprobs(choice: Choice, codec: Codec) -> list[dict[str, Any]]:
    """Of each token of the solution."""
    found = []
    for token, value in choice.logprobs():
        text = codec.decode([token])
        told = {"token": text, "logprob": value, "bytes": list(text.encode(errors="replace"))}
        found.append(told | {"top_logprobs": []})
    return found


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
