"""Input tokens of a guarded call: messages, tools and schemas for the answer. Exact, or an upper bound."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_core.utils.function_calling import convert_to_openai_tool

from elastic_agent.errors import UncountablePromptError
from elastic_agent.prompts.counting import count_prompt

TOOL_OPTIONS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")
SCHEMA_OPTIONS = (
    *("response_format", "response_schema", "response_json_schema", "text", "format", "output_config"),
)
"""Call options that hold a schema for the answer; the model reads it like a tool's schema."""


def count_input(
    model: str, messages: Sequence[BaseMessage], options: Mapping[str, Any], allow: Mapping[str, int]
) -> int:
    """Input tokens of a call.

    Args:
        model: the model's name.
        options: the call's options.
        allow: tokens for message parts that can't be counted, by type.

    Raises:
        UncountablePromptError: a part or a schema can't be counted.
    """
    wire = cast("Any", convert_to_openai_messages(messages))
    shapes = [_schema(tool) for tool in (*_sequence(options, "tools"), *_sequence(options, "functions"))]
    for name in SCHEMA_OPTIONS:
        if (shape := options.get(name)) is not None:
            shapes.append({"type": "json_schema", "json_schema": _schema(shape)})
    return count_prompt(model, wire, shapes or None, allow=allow).tokens


def _sequence(options: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = options.get(name)
    return found if isinstance(found, list | tuple) else []


def _schema(shape: Any) -> Any:
    """A schema as it goes over the wire: LangChain converts classes.

    Raises:
        UncountablePromptError: no schema that LangChain knows.
    """
    try:
        if isinstance(shape, Mapping):
            return json.loads(json.dumps(shape, default=_schema))
        return convert_to_openai_tool(shape)
    except (TypeError, ValueError) as error:
        raise UncountablePromptError(
            f"{shape!r:.80} can't be counted: give a dict as on the wire, a pydantic class or a TypedDict"
        ) from error
