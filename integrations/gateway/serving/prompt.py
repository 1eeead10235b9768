"""The prompt of a request as token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from elastic_agent.prompts.told_budget import behind

from ..api.request_schema import ChatRequest, CompletionRequest, Message, Part
from ..errors import bad_request
from ..settings import Upstream


def check_length(body: ChatRequest | CompletionRequest, upstream: Upstream) -> None:
    """Refuse a prompt that can't fit into the context, before any time is spent on encoding it."""
    context = upstream.backend.context_length
    if isinstance(body, CompletionRequest):
        length = _bytes(body.prompt) if isinstance(body.prompt, str) else None
        tokens = len(body.prompt) if length is None else length // upstream.backend.codec.bytes_per_token
    else:
        length = sum(map(_message_bytes, body.messages))
        tokens = max(len(body.messages), length // upstream.backend.codec.bytes_per_token)
    if tokens > context:
        what = f"{tokens:,} tokens" if length is None else f"{length:,} bytes, more than {tokens:,} tokens,"
        raise bad_request(
            "prompt" if isinstance(body, CompletionRequest) else "messages",
            f"the prompt has {what} and {upstream.name} has a context of {context:,}: shorten it",
            "context_length_exceeded",
        )


def _message_bytes(message: Message) -> int:
    content = message.content
    if isinstance(content, list):
        return sum(_bytes(_part(part)) for part in content)
    return _bytes(content or "")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def completion_prompt(body: CompletionRequest, upstream: Upstream) -> Sequence[int]:
    """The ids of a completion's prompt.

    Raises:
        GatewayError: 400: an id that the model doesn't have.
    """
    codec = upstream.backend.codec
    if isinstance(body.prompt, str):
        return codec.encode(body.prompt)
    try:
        codec.decode(body.prompt)
    except Exception:
        raise bad_request("prompt", "prompt: an id that is no token of this model") from None
    return body.prompt


def chat_prompt(
    body: ChatRequest, tools: Sequence[Mapping[str, Any]], upstream: Upstream, words: str = ""
) -> Sequence[int]:
    """The ids of a conversation, in the model's chat template; `words` stand behind its last message."""
    messages = behind([_message(message, at) for at, message in enumerate(body.messages)], words)
    try:
        return upstream.backend.codec.encode_chat(messages, tools=tools or None)
    except Exception as error:  # templates raise any error, of jinja2 or Python
        raise bad_request(
            "messages", f"messages: the model's chat template refuses them ({str(error)[:200]})", "template"
        ) from error


def _message(message: Message, at: int) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    out: dict[str, Any] = {"role": role, "content": content or ""}
    if role == "assistant":
        if thinking := message.reasoning_content or message.reasoning:
            out["reasoning_content"] = thinking
        if message.tool_calls:
            out["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function.arguments, at, number),
                    },
                }
                for number, call in enumerate(message.tool_calls)
            ]
    elif role == "tool":
        out["tool_call_id"] = message.tool_call_id or ""
    if message.name and role in ("tool", "user"):
        out["name"] = message.name
    return out


def _part(part: Part) -> str:
    return (part.text if part.type == "text" else part.refusal) or ""


def _arguments(text: str, at: int, number: int) -> Any:
    """The arguments of a tool call as an object, which Hugging Face's templates expect."""
    where = f"messages[{at}].tool_calls[{number}].function.arguments"
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise bad_request(where, f"{where}: not JSON") from None
    if not isinstance(value, dict):
        raise bad_request(where, f"{where}: not a JSON object")
    return value
