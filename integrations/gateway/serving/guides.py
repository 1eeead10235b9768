"""Structured answers and forced tool calls: the engine's guided decoding in the solution's pass.

The thinking is never guided. Only a vLLM server can guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elastic_agent.errors import UnsupportedError
from elastic_agent.generation.guided_decoding import check_guided_fields

from ...openai_format.guided_decoding import guided_fields
from ...openai_format.schema_check import SchemaError
from ..api.request_schema import ChatRequest, CompletionRequest, NamedTool
from ..errors import bad_request
from ..settings import Upstream


def shown_tools(body: ChatRequest) -> list[dict[str, Any]]:
    """The tools that the prompt shows to the model.

    Raises:
        GatewayError: 400: the tool choice names none of them.
    """
    shown = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    choice = body.tool_choice
    if choice == "none":
        return []
    if isinstance(choice, NamedTool):
        named = [tool for tool in shown if tool["function"]["name"] == choice.function.name]
        if not named:
            raise bad_request("tool_choice", f"tool_choice: no tool is called {choice.function.name[:64]!r}")
        return named
    if choice == "required" and not shown:
        raise bad_request("tool_choice", "tool_choice: required, and there are no tools")
    return shown


def guide_for(body: ChatRequest, tools: Sequence[Mapping[str, Any]], upstream: Upstream) -> dict[str, Any]:
    """The fields that make the engine keep to the request's schemas; empty where it has none to keep."""
    wanted, choice = body.response_format, body.tool_choice
    shape = None if wanted is None else wanted.json_schema
    if wanted is not None and wanted.type == "json_schema" and (shape is None or shape.schema_ is None):
        raise bad_request("response_format.json_schema", "response_format.json_schema: a schema is needed")
    try:
        fields = guided_fields(
            tools,
            choice.function.name if isinstance(choice, NamedTool) else choice,
            body.parallel_tool_calls,
            None if wanted is None else wanted.model_dump(by_alias=True, exclude_none=True),
        )
    except SchemaError as error:
        field = "tools" if str(error).startswith("tool ") else "response_format.json_schema.schema"
        raise bad_request(field, f"{field}: {error}", "invalid_schema") from None
    if fields and not upstream.backend.guided:
        field = _guided_field(body)
        raise bad_request(
            field,
            f"{field}: this takes guided decoding, and {upstream.name} has an engine that has none. Serve "
            f"it with vLLM, or leave out what needs it (a tool choice, a format, strict tools)",
            "unsupported_value",
        )
    return fields


def _guided_field(body: ChatRequest) -> str:
    """The field of a request that asks for guided decoding."""
    wanted = body.response_format
    asked = {
        "tool_choice": body.tool_choice not in (None, "auto", "none"),
        "response_format": wanted is not None and wanted.type != "text",
        "parallel_tool_calls": body.parallel_tool_calls is False,
    }
    return next((name for name, wants in asked.items() if wants), "tools")


async def check_guided(
    body: ChatRequest | CompletionRequest, guide: Mapping[str, Any], upstream: Upstream
) -> None:
    """Make sure that the engine can keep to a guide, before anything is held for the call."""
    try:
        await check_guided_fields(upstream.backend, guide)
    except UnsupportedError as error:
        field = _guided_field(body) if isinstance(body, ChatRequest) else None
        raise bad_request(field, f"{field}: {error}", "unsupported_value") from None
