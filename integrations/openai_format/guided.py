"""A tool choice, strict tools and response formats as guided decoding: fields for the solution's pass.

What is promised here is kept by the engine's grammar, not by asking the model: thinking stays free, and the
solution can't come out otherwise unless its budget cuts it. Without a grammar a choice would be a wish, so an
engine that has none refuses (`UnsupportedError`).

The fields are vLLM's `structured_outputs` (0.12 and later): `json` for a schema, and xgrammar's structural
tags where tool calls come in. A call that is enforced is written as Hermes writes, whatever the model's own
format is, and read so (`read_as`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from elastic_agent.errors import UnsupportedError
from elastic_agent.tool_calls import HERMES, ToolFormat

from .schemas import SchemaError, check_schema

Schema = Mapping[str, Any]
OPEN, CLOSE = HERMES.opens[0]


def solution_fields(
    tools: Sequence[Schema], choice: object, parallel: bool | None, response_format: Schema | None
) -> dict[str, Any]:
    """The engine's fields; empty when nothing has to be enforced.

    Args:
        tools: those that the model may call, OpenAI-style.
        choice: "auto" or None leave it to the model; any other names or demands a call of `tools`.
        parallel: False allows one call at most.
        response_format: OpenAI's: `{"type": "json_schema", "json_schema": {"schema": ...}}` or `{"type":
            "json_object"}`; where there are tools, the answer is such JSON or calls.

    Raises:
        SchemaError: a schema that is none, or too deep or large to be compiled for everybody's sake.
        ValueError: a response format that is neither.
    """
    answer = _answer(response_format)
    if not tools:
        return {} if answer is None else {"structured_outputs": _as_text(answer)}
    forced = choice not in (None, "auto")
    strict = any(tool["function"].get("strict") for tool in tools)
    if not (forced or strict or answer is not None or parallel is False):
        return {}
    tags = [_tag(tool, strict=forced or bool(tool["function"].get("strict"))) for tool in tools]
    calls: dict[str, Any] = {"tags": tags, "stop_after_first": parallel is False}
    if forced or answer is not None:
        form = {"type": "tags_with_separator", "separator": "\n", "at_least_one": True, **calls}
    else:
        form = {"type": "triggered_tags", "triggers": [OPEN], **calls}
    if answer is not None and not forced:
        json_form = {"type": "json_schema", "json_schema": answer.get("json", {"type": "object"})}
        form = {"type": "or", "elements": [json_form, form]}
    return {"structured_outputs": {"structural_tag": json.dumps({"type": "structural_tag", "format": form})}}


def read_as(format: ToolFormat, fields: Mapping[str, Any]) -> ToolFormat:
    """The format in which calls under these fields are read: the model's own, and the one that is enforced.

    Raises:
        UnsupportedError: calls that the model begins by itself are to keep to a schema, and it begins them in
            a way that the fields don't watch for.
    """
    if not fields or OPEN in format.starts:
        return format
    if '"triggered_tags"' in fields["structured_outputs"].get("structural_tag", ""):
        raise UnsupportedError(
            f"strict tools and parallel_tool_calls=False can't be enforced where the model chooses: calls "
            f"are written as {format.name} here. Leave them out, or demand a call (tool_choice)"
        )
    return replace(format, opens=(*format.opens, *HERMES.opens))


def _tag(tool: Schema, *, strict: bool) -> dict[str, Any]:
    function = tool["function"]
    schema = function.get("parameters") if strict else None
    if schema:
        try:
            check_schema(schema)
        except SchemaError as error:
            raise SchemaError(f"tool {function['name'][:64]!r}: {error}") from None
    return {
        "type": "tag",
        "begin": f'{OPEN}\n{{"name": {json.dumps(function["name"])}, "arguments": ',
        "content": {"type": "json_schema", "json_schema": schema or {"type": "object"}},
        "end": f"}}\n{CLOSE}",
    }


def _as_text(answer: dict[str, Any]) -> dict[str, Any]:
    """A schema as text: an object in an object is handed from process to process by a call within a call."""
    return {"json": json.dumps(answer["json"])} if "json" in answer else answer


def _answer(response_format: Schema | None) -> dict[str, Any] | None:
    """What guides an answer in JSON; None for one in text."""
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"json_object": True}
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
            check_schema(schema)
            return {"json": dict(schema)}
    raise ValueError(
        'response_format must be {"type": "json_schema", "json_schema": {"schema": {...}}}, {"type": '
        f'"json_object"}} or {{"type": "text"}}, not {response_format!r}'
    )
