"""Tool choices, strict tools and response formats as guided decoding: engine fields for the solution's pass.

The engine's grammar keeps these promises, not a request in the prompt: thinking stays free, and the solution
keeps to its form unless its budget cuts it. An engine without guided decoding refuses such calls
(`UnsupportedError`), because it could not enforce them.

The fields are vLLM's `structured_outputs` (0.12 and later): `json` for a schema, and xgrammar's structural
tags for tool calls. An enforced call is written in Hermes format whatever the model's own format is, and read
in both (`enforced_format`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from elastic_agent.backends.base import Codec
from elastic_agent.errors import UnsupportedError
from elastic_agent.tool_calls import HERMES, ToolFormat

from .schema_check import SchemaError, check_schema

Schema = Mapping[str, Any]
OPEN, CLOSE = HERMES.opens[0]


def guided_fields(
    tools: Sequence[Schema], choice: object, parallel: bool | None, response_format: Schema | None
) -> dict[str, Any]:
    """The engine's fields; empty when nothing has to be enforced.

    Args:
        tools: the tools that the model may call, OpenAI-style.
        choice: "auto" or None leave the choice to the model; any other value demands a call of `tools`.
        parallel: False allows one call at most.
        response_format: OpenAI's: `{"type": "json_schema", "json_schema": {"schema": ...}}` or `{"type":
            "json_object"}`. With tools, the answer is either such JSON or tool calls.

    Raises:
        SchemaError: a schema is invalid, or too deep or large to compile in a shared engine.
        ValueError: another response format.
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


def enforced_format(format: ToolFormat, fields: Mapping[str, Any]) -> ToolFormat:
    """The format in which tool calls under these fields are read: the model's own and the enforced one.

    Raises:
        UnsupportedError: the model may choose to call a strict tool, and begins calls with a tag that the
            engine does not watch for.
    """
    if not fields or OPEN in format.starts:
        return format
    if '"triggered_tags"' in fields["structured_outputs"].get("structural_tag", ""):
        raise UnsupportedError(
            f"strict tools and parallel_tool_calls=False can't be enforced where the model chooses: calls "
            f"are written as {format.name} here. Leave them out, or demand a call (tool_choice)"
        )
    return replace(format, opens=(*format.opens, *HERMES.opens))


def opened_prompt(prompt: Sequence[int], codec: Codec, fields: Mapping[str, Any]) -> Sequence[int]:
    """The prompt of a call under these fields, with its thinking opened.

    A model that opens its thinking itself could skip it, and with it the solution's own pass.
    """
    return [*prompt, *codec.markers.to_open(prompt)] if fields else prompt


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
    """The schema as text: vLLM hands nested objects between its processes with one call per level."""
    return {"json": json.dumps(answer["json"])} if "json" in answer else answer


def _answer(response_format: Schema | None) -> dict[str, Any] | None:
    """What guides an answer in JSON; None for an answer in text."""
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
