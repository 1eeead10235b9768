"""LangChain messages as the OpenAI-style dicts that a chat template reads.

Earlier thinking, in any form in which software hands it back (`openai_format.reasoning`), becomes the field
`reasoning_content` of an assistant's message. A template that wants old thinking (Qwen3, between tool calls)
renders it; others drop it. Tool-call arguments stay objects, as Hugging Face's templates expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from ..openai_format.reasoning import REASONING_TYPES, reasoning_of

_LEFT_OUT = {*REASONING_TYPES, "tool_call", "tool_use", "tool_call_chunk", "invalid_tool_call"}


def to_chat(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """A conversation for `Codec.encode_chat`.

    Raises:
        ValueError: a message that a text model can't read (a picture, for example), or of an unknown kind.
    """
    return [_one(message) for message in messages]


def _one(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, AIMessage):
        return _assistant(message)
    if isinstance(message, ToolMessage):
        return {
            "role": "tool",
            "content": _text(message),
            "tool_call_id": message.tool_call_id,
            **({"name": message.name} if message.name else {}),
        }
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": _text(message)}
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": _text(message)}
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": _text(message)}
    raise ValueError(f"a {type(message).__name__} has no place in a chat prompt")


def _assistant(message: AIMessage) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "assistant", "content": _text(message)}
    if thinking := reasoning_of(message.content, message.additional_kwargs):
        out["reasoning_content"] = thinking
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in message.tool_calls
        ]
    return out


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_block(block, message) for block in message.content)


def _block(block: str | Mapping[str, Any], message: BaseMessage) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type", "text")
    if kind == "non_standard" and isinstance(block.get("value"), Mapping):
        return _block(block["value"], message)
    if kind == "text":
        return str(block.get("text", ""))
    if kind in _LEFT_OUT and isinstance(message, AIMessage):
        return ""
    raise ValueError(
        f"this model reads text only, and a {message.type} message holds a block of type {kind!r}"
    )
