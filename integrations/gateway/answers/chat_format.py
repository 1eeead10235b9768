"""Chat completions and completions as OpenAI's JSON, whole and as chunks.

Reasoning is under both names that vLLM gives it. The chunk that ends an answer has the `budget`; a stream's
last chunk before `[DONE]` has the usage, where the client asked for it. `responses_format` is the same for
the Responses API.
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
from .choices import Choice, usage


@dataclass(frozen=True, slots=True)
class ResponseContent:
    """What a response says; see `Formatter`.

    Attributes:
        answers: the answers.
        model: what the client calls the model.
        logprobs: whether the log-probs of the solution's tokens are wanted.
        usage: whether usage is wanted at the end of a stream.
        budget: of some of the answers, what was granted and used.
    """

    answers: Sequence[Choice]
    model: str
    codec: Codec
    logprobs: bool
    usage: bool
    budget: Callable[[Sequence[Choice]], dict[str, Any]]


class Formatter(Protocol):
    """Formats one response of an endpoint. Events are JSON objects; one with a `type` is sent under it."""

    ends_with_done: bool
    """Whether a stream ends with `[DONE]`."""

    def whole(self) -> dict[str, Any]:
        """The body of a response that is not streamed."""
        ...

    def stream_start(self) -> Iterable[dict[str, Any]]:
        """The events that begin a stream."""
        ...

    def delta(self, choice: Choice, delta: Delta) -> Iterable[dict[str, Any]]:
        """The events of new text or tool calls."""
        ...

    def answer_end(self, choice: Choice) -> Iterable[dict[str, Any]]:
        """The events that end an answer."""
        ...

    def stream_end(self) -> Iterable[dict[str, Any]]:
        """The events that end a stream."""
        ...


class ChatFormatter:
    """`/v1/chat/completions`."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"
    ends_with_done = True

    def __init__(self, content: ResponseContent) -> None:
        self.content = content
        self._id, self._created = f"{self.prefix}-{uuid4().hex}", int(time.time())

    def whole(self) -> dict[str, Any]:
        answers = self.content.answers
        return self._envelope(self.object) | {
            "choices": [self._answer(choice) for choice in answers],
            "usage": usage(answers),
            "budget": self.content.budget(answers),
        }

    def stream_start(self) -> Iterator[dict[str, Any]]:
        for choice in self.content.answers:
            if (opening := self._first(choice)) is not None:
                yield self._chunk(opening)

    def delta(self, choice: Choice, delta: Delta) -> Iterator[dict[str, Any]]:
        yield self._chunk(self._delta(choice, delta))

    def answer_end(self, choice: Choice) -> Iterator[dict[str, Any]]:
        yield self._chunk(self._last(choice)) | {"budget": self.content.budget([choice])}

    def stream_end(self) -> Iterator[dict[str, Any]]:
        if self.content.usage:
            yield self._envelope(self.chunk_object) | {"choices": [], "usage": usage(self.content.answers)}

    def _envelope(self, object: str) -> dict[str, Any]:
        return {"id": self._id, "object": object, "created": self._created, "model": self.content.model}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._envelope(self.chunk_object) | {"choices": [choice]}

    def _first(self, choice: Choice) -> dict[str, Any] | None:
        """What begins an answer; None: nothing."""
        return {"index": choice.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def _delta(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if delta.reasoning:
            fields["reasoning"] = fields["reasoning_content"] = delta.reasoning
        if delta.text:
            fields["content"] = delta.text
        if delta.tool_calls:
            fields["tool_calls"] = [{"index": call["index"], **_call(call)} for call in delta.tool_calls]
        return {"index": choice.index, "delta": fields, "finish_reason": None}

    def _last(self, choice: Choice) -> dict[str, Any]:
        end: dict[str, Any] = {"index": choice.index, "delta": {}, "finish_reason": choice.finish}
        return end | ({"logprobs": self._logprobs(choice)} if self.content.logprobs else {})

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
            "logprobs": self._logprobs(choice) if self.content.logprobs else None,
            "finish_reason": choice.finish,
        }

    def _logprobs(self, choice: Choice) -> dict[str, Any]:
        return {"content": logprobs(choice, self.content.codec), "refusal": None}


class CompletionFormatter(ChatFormatter):
    """`/v1/completions`: choices of another shape; the text is the solution, `reasoning` the thinking."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def _first(self, choice: Choice) -> dict[str, Any] | None:
        return None

    def _delta(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        thought = {"reasoning": delta.reasoning} if delta.reasoning else {}
        return {"index": choice.index, "text": delta.text, "logprobs": None, "finish_reason": None} | thought

    def _last(self, choice: Choice) -> dict[str, Any]:
        found = self._logprobs(choice) if self.content.logprobs else None
        return {"index": choice.index, "text": "", "logprobs": found, "finish_reason": choice.finish}

    def _answer(self, choice: Choice) -> dict[str, Any]:
        return self._last(choice) | {"text": choice.text, "reasoning": choice.reasoning or None}

    def _logprobs(self, choice: Choice) -> dict[str, Any]:
        pairs = choice.logprobs()
        texts = [self.content.codec.decode([token]) for token, _ in pairs]
        offsets = list(accumulate(map(len, texts), initial=0))[:-1]
        values = [value for _, value in pairs]
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}


def logprobs(choice: Choice, codec: Codec) -> list[dict[str, Any]]:
    """The log-probs of the solution's tokens, in the shape of a chat answer."""
    found = []
    for token, value in choice.logprobs():
        text = codec.decode([token])
        entry = {"token": text, "logprob": value, "bytes": list(text.encode(errors="replace"))}
        found.append(entry | {"top_logprobs": []})
    return found


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["args"]}
    return {"id": call["id"], "type": "function", "function": function}


def budget(choices: Sequence[Choice], task: str | None, left: Mapping[str, float]) -> dict[str, Any]:
    """What each answer was granted, used and got refunded, and what is left of the task or key."""
    names = ("granted", "used", "refund", "usd", "thinking_end", "solution_end", "outcome", "reason")
    calls = []
    for choice in choices:
        report = choice.call.report().to_dict()
        calls.append({"index": choice.index, **{name: report[name] for name in names}})
    return {"task": task, "calls": calls, "left": dict(left)}


def pairs(numbers: Mapping[str, Any]) -> str:
    """Numbers as the value of a header: "thinking=256, solution=128"."""
    return ", ".join(f"{name}={value}" for name, value in numbers.items())
