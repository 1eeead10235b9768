"""The body of `/v1/messages`, Anthropic's Messages API, and how it becomes a chat request.

`max_tokens` caps thinking, close and solution together, as at Anthropic. Without `thinking` the model doesn't
think, as there, unless one of our own fields or headers gives it thinking. `budget_tokens` is the thinking's
limit; `adaptive` thinks within `output_config.effort`, and without an effort as far as `max_tokens` leaves.
Thinking blocks of earlier turns come back as the model's reasoning; their signatures are not looked at.

What Anthropic's own servers would run or read (server tools, images, documents, files) is refused. A last
message of the assistant, which Anthropic's older models went on writing, is refused, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..errors import bad_request
from .request_schema import (
    AnswerRequest,
    Body,
    ChatRequest,
    Count,
    Effort,
    LongList,
    ShortList,
    Text,
    Tokens,
    checked,
    function_tool,
    read,
)

RENAMED = {
    "response_format.json_schema.schema": "output_config.format.schema",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
}
"""Fields of a chat request, and their names in this one."""


class TextBlock(Body):
    type: Literal["text"]
    text: str


class Block(Body):
    """A part of a message: text, thinking, a tool call, or its result."""

    type: Literal["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | LongList[TextBlock] | None = None
    is_error: bool | None = None


class AnthropicMessage(Body):
    role: Literal["user", "assistant", "system"]
    content: str | LongList[Block]


class AnthropicTool(Body):
    """A tool of the client's; `type` is there to refuse the tools that Anthropic's servers run."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class AnthropicToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """`display: omitted` leaves the thinking's text out of the answer."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Tokens | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    effort: Effort | None = None
    format: OutputFormat | None = None


class CountRequest(AnswerRequest):
    """The body of `/v1/messages/count_tokens`."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {"container": (), "mcp_servers": ([],)}

    messages: Annotated[LongList[AnthropicMessage], Field(min_length=1)]
    system: str | LongList[TextBlock] | None = None
    tools: ShortList[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    stop_sequences: Annotated[list[Text], Field(max_length=16, fail_fast=True)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None

    @property
    def omits_thinking(self) -> bool:
        """Whether thinking blocks are to be empty."""
        return self.thinking is not None and self.thinking.display == "omitted"

    def as_chat(self) -> ChatRequest:
        """This request as a chat request."""
        config, thinking = self.output_config or OutputConfig(), self.thinking or Thinking(type="disabled")
        if self.messages[-1].role == "assistant":
            raise bad_request(
                "messages",
                "messages: the last one is the assistant's, which this gateway can't go on writing: end with "
                "a message of the user",
                "unsupported_value",
            )
        value: dict[str, Any] = {
            **{name: getattr(self, name) for name in AnswerRequest.model_fields},
            "messages": _messages(self.system, self.messages),
            "tools": [
                function_tool(tool.name, tool.description, tool.input_schema, tool.strict)
                for tool in self.tools or ()
            ]
            or None,
            "top_k": self.top_k,
            "stop": self.stop_sequences or None,
            **_choice(self.tool_choice),
        }
        if thinking.type == "enabled" and self.thinking_budget is None:
            value["thinking_budget"] = thinking.budget_tokens
        # An effort stands behind a header of ours, which may allow thinking where the body says nothing
        value["reasoning_effort"] = "none" if thinking.type == "disabled" else config.effort
        if config.format is not None:
            shape = {"name": "answer", "schema": config.format.schema_}
            value["response_format"] = {"type": "json_schema", "json_schema": shape}
        return checked(ChatRequest, {name: given for name, given in value.items() if given is not None})


class MessagesRequest(CountRequest):
    """The body of `/v1/messages`."""

    max_tokens: Count

    def as_chat(self) -> ChatRequest:
        """This request as a chat request."""
        return super().as_chat().model_copy(update={"max_completion_tokens": self.max_tokens})


def read_messages(kind: type[CountRequest], raw: bytes) -> tuple[ChatRequest, CountRequest]:
    """A body as a chat request, and as what was sent.

    Raises:
        GatewayError: 400, naming the field in Anthropic's words.
    """
    body = read(kind, raw)
    return body.as_chat(), body


def _choice(choice: AnthropicToolChoice | None) -> dict[str, Any]:
    """`tool_choice` as the two fields of a chat request."""
    if choice is None:
        return {}
    named: Any = {"auto": "auto", "any": "required", "none": "none"}.get(choice.type)
    if choice.type == "tool":
        if choice.name is None:
            raise bad_request("tool_choice.name", "tool_choice.name is needed: which tool?")
        named = {"type": "function", "function": {"name": choice.name}}
    single = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    return {"tool_choice": named, **single}


def _messages(system: str | list[TextBlock] | None, given: list[AnthropicMessage]) -> list[dict[str, Any]]:
    """Anthropic's messages as those of a chat: each tool result becomes a message of its own."""
    found: list[dict[str, Any]] = []
    if system:
        text = system if isinstance(system, str) else "\n\n".join(block.text for block in system)
        found.append({"role": "system", "content": text})
    for at, message in enumerate(given):
        if isinstance(message.content, str):
            found.append({"role": message.role, "content": message.content})
        elif message.role == "assistant":
            found.append(_assistant(message.content, f"messages[{at}]"))
        else:
            found += _user(message.role, message.content, f"messages[{at}]")
    return found


def _assistant(blocks: list[Block], where: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant", "content": ""}
    for at, block in enumerate(blocks):
        place = f"{where}.content[{at}]"
        if block.type == "text":
            turn["content"] += block.text or ""
        elif block.type == "thinking":
            turn["reasoning_content"] = turn.get("reasoning_content", "") + (block.thinking or "")
        elif block.type == "tool_use":
            call = {"name": _needed(block.name, f"{place}.name"), "arguments": json.dumps(block.input or {})}
            turn.setdefault("tool_calls", []).append(
                {"id": _needed(block.id, f"{place}.id"), "function": call}
            )
        elif block.type == "tool_result":
            raise bad_request(place, f"{place}: a tool_result stands in a message of the user")
    return turn


def _user(role: str, blocks: list[Block], where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for at, block in enumerate(blocks):
        place = f"{where}.content[{at}]"
        if block.type == "tool_result":
            content = block.content or ""
            text = content if isinstance(content, str) else "".join(part.text for part in content)
            id = _needed(block.tool_use_id, f"{place}.tool_use_id")
            found.append({"role": "tool", "tool_call_id": id, "content": text})
        elif block.type != "text":
            raise bad_request(place, f"{place}: {block.type} stands in a message of the assistant")
        elif found and found[-1]["role"] == role:
            found[-1]["content"] += f"\n\n{block.text or ''}"
        else:
            found.append({"role": role, "content": block.text or ""})
    return found or [{"role": role, "content": ""}]


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise bad_request(where, f"{where} is needed")
    return value
