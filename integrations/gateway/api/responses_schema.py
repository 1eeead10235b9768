"""The body of `/v1/responses`, OpenAI's Responses API, and how it becomes a chat request.

The gateway keeps no responses: `previous_response_id`, `conversation`, `background` and items by reference
are refused, and each request brings its whole conversation. Tools are functions; a tool that OpenAI itself
would run is refused. Budgets and aliases are those of a chat request (`request_schema`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from elastic_agent.validation import shown

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
    at_most,
    checked,
    function_tool,
    read,
)

RENAMED = {
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema.schema": "text.format.schema",
    "response_format": "text.format",
    "messages": "input",
}
"""Fields of a chat request, and their names in this one."""


class Content(Body):
    """A part of a text."""

    type: Literal["input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"]
    text: str | None = None
    refusal: str | None = None


def _kept(type: Any) -> Any:
    if type == "item_reference":
        raise ValueError("this gateway keeps no items to refer to: send them whole (with `store: false`)")
    return type


class Item(Body):
    """A message, a tool call, its result, or earlier reasoning: the SDK sends all of `output` back."""

    type: Annotated[
        Literal["message", "function_call", "function_call_output", "reasoning"], BeforeValidator(_kept)
    ] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | LongList[Content] | None = None
    summary: LongList[Content] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | LongList[Content] | None = None


def _run_by_the_client(type: Any) -> Any:
    if type != "function":
        raise ValueError(f"{shown(type)} is a tool that OpenAI runs, and nobody does here: leave it out")
    return type


class FunctionTool(Body):
    type: Annotated[Literal["function"], BeforeValidator(_run_by_the_client)]
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Body):
    type: Literal["function"]
    name: str


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextOptions(Body):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(AnswerRequest):
    """The body of `/v1/responses`."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "previous_response_id": (),
        "prompt": (),
        "top_logprobs": (0,),
        "truncation": ("disabled",),
    }

    input: Text | Annotated[LongList[Item], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: ShortList[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    include: ShortList[str] | None = None
    metadata: Annotated[dict[str, str] | None, at_most(64)] = None

    def as_chat(self) -> ChatRequest:
        """This request as a chat request."""
        choice, shape = self.tool_choice, self.text.format if self.text else None
        named: Any = choice
        if isinstance(choice, FunctionChoice):
            named = {"type": "function", "function": {"name": choice.name}}
        value = {
            **{name: getattr(self, name) for name in AnswerRequest.model_fields},
            "messages": _messages(self.instructions, self.input),
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "max_completion_tokens": self.max_output_tokens,
            "tools": [
                function_tool(tool.name, tool.description, tool.parameters, tool.strict)
                for tool in self.tools or ()
            ]
            or None,
            "tool_choice": named,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": None if shape is None else _format(shape),
            "logprobs": "message.output_text.logprobs" in (self.include or ()),
        }
        return checked(ChatRequest, {name: given for name, given in value.items() if given is not None})


def read_as_chat(raw: bytes) -> tuple[ChatRequest, dict[str, Any]]:
    """A body as a chat request; and its fields as JSON, which the response repeats."""
    body = read(ResponseRequest, raw)
    return body.as_chat(), body.model_dump(mode="json", by_alias=True, exclude_none=True)


def _format(shape: TextFormat) -> dict[str, Any]:
    if shape.type != "json_schema":
        return {"type": shape.type}
    schema = {} if shape.schema_ is None else {"schema": shape.schema_}
    return {"type": "json_schema", "json_schema": {"name": shape.name, **schema}}


def _messages(instructions: str | None, given: str | list[Item]) -> list[dict[str, Any]]:
    """Items as messages: the model's reasoning, text and tool calls of one turn become one message."""
    found: list[dict[str, Any]] = (
        [] if instructions is None else [{"role": "system", "content": instructions}]
    )
    if isinstance(given, str):
        return [*found, {"role": "user", "content": given}]
    turn: dict[str, Any] | None = None  # the assistant's message, while its items come
    for at, item in enumerate(given):
        text = _text(item.content)
        if item.type == "function_call_output":
            _require(at, "call_id", item.call_id)
            found.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
            turn = None
        elif item.type == "message" and item.role != "assistant":
            _require(at, "role", item.role)
            if instructions is not None and at == 0 and item.role in ("system", "developer"):
                found[0]["content"] += f"\n\n{text}"  # many templates take one system message
            else:
                found.append({"role": item.role, "content": text})
            turn = None
        else:
            if turn is None:
                turn = {"role": "assistant", "content": ""}
                found.append(turn)
            if item.type == "message":
                turn["content"] += text
            elif item.type == "reasoning":
                turn["reasoning_content"] = turn.get("reasoning_content", "") + (text or _text(item.summary))
            else:
                for name in ("call_id", "name"):
                    _require(at, name, getattr(item, name))
                function = {"name": item.name, "arguments": item.arguments or "{}"}
                turn.setdefault("tool_calls", []).append({"id": item.call_id, "function": function})
    return found


def _require(at: int, name: str, value: object) -> None:
    if value is None:
        raise bad_request(f"input[{at}].{name}", f"input[{at}].{name} is needed")


def _text(content: str | list[Content] | None) -> str:
    if isinstance(content, list):
        return "".join((part.refusal if part.type == "refusal" else part.text) or "" for part in content)
    return content or ""
