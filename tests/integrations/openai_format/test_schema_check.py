"""Schemas to guide an engine by: what could stop it for everybody is refused, with its place."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from elastic_agent.integrations.openai_format.guided_decoding import guided_fields
from elastic_agent.integrations.openai_format.schema_check import SchemaError, check_schema


def nested(depth: int, wrap: str = "object") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        if wrap == "object":
            schema = {"type": "object", "properties": {"a": schema}}
        elif wrap == "array":
            schema = {"type": "array", "items": schema}
        else:
            schema = {wrap: [schema]}
    return schema


def wide(many: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(many)}}


BAD: dict[str, tuple[Any, str]] = {
    "260 objects": (nested(260), "nested"),
    "65 arrays": (nested(65, "array"), "nested"),
    "40 alternatives": (nested(40, "anyOf"), "nested"),
    "constant": ({"const": json.loads("[" * 300 + "]" * 300)}, "nested"),
    "default": ({"type": "string", "default": json.loads("[" * 300 + "]" * 300)}, "nested"),
    "unknown key": ({"x-mine": json.loads('{"a":' * 300 + "1" + "}" * 300)}, "nested"),
    "properties": (wide(1001), "1,000 properties"),
    "defs": ({"$defs": {f"d{n}": {"type": "null"} for n in range(1001)}}, "1,000 properties"),
    "properties in all": ({"anyOf": [wide(300)] * 4}, "1,000 properties"),
    "enum": ({"enum": list(range(1001))}, "1,000 enum entries"),
    "enums in all": ({"anyOf": [{"enum": list(range(300))}] * 4}, "1,000 enum entries"),
    "alternatives": ({"anyOf": [{"type": "null"}] * 1001}, "1,000 enum entries"),
    "characters": ({"type": "string", "description": "a" * 100_001}, "100,000 characters"),
    "counts": ({"type": "array", "items": {"type": "null"}, "minItems": 10**9}, "10,000 a sum of counts"),
    "counts in all": ({"anyOf": [{"type": "string", "maxLength": 4000}] * 3}, "10,000 a sum of counts"),
    "negative count": ({"minLength": -1}, "minLength must be a whole number"),
    "huge number": ({"type": "integer", "maximum": 10**30}, "maximum must be a number below"),
    "type": ({"type": "nonsense"}, "type must be one of"),
    "types": ({"type": ["string", 5]}, "type must be one of"),
    "type of a property": ({"properties": {"a": {"type": "strin"}}}, "properties.a.type must be one of"),
    "a property": ({"properties": {"a": 5}}, "properties.a must be an object"),
    "properties as a list": ({"properties": []}, "properties must be an object"),
    "items": ({"type": "array", "items": 5}, "items must be an object"),
    "no enum": ({"enum": []}, "enum must be a list"),
    "required": ({"required": "a"}, "required must be a list"),
    "anyOf": ({"anyOf": {}}, "anyOf must be a list"),
    "no anyOf": ({"anyOf": []}, "anyOf must be a list"),
    "pattern": ({"type": "string", "pattern": "("}, "pattern must be a pattern"),
    "long pattern": ({"type": "string", "pattern": "a" * 501}, "pattern must be a pattern"),
    "repeats": ({"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"}, "pattern must be a pattern"),
    "many repeats": ({"type": "string", "pattern": "a{99999999999999999999}"}, "pattern must be a pattern"),
    "pattern of names": ({"patternProperties": {"(": {"type": "null"}}}, "patternProperties must be"),
    "reference": ({"$ref": "#/$defs/none"}, r"\$ref must be a reference"),
    "far reference": ({"$ref": "http://127.0.0.1/schema"}, r"\$ref must be a reference"),
    "reference to itself": ({"$ref": "#"}, r"\$ref must be a reference .* not to itself"),
    "circle": ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}, r"\$ref must be a reference"),
    "zero byte": ({"type": "string", "pattern": "a\0"}, "pattern must be a pattern"),
    "no count": ({"minLength": 5, "maxLength": 2}, "minLength must be at most maxLength"),
    "no number": ({"minimum": 0.5, "maximum": -1}, "minimum must be at most maximum"),
    "no schema": (5, "the schema must be an object"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_schema_is_refused(name: str) -> None:
    """With a sentence that names the place, whichever way it would reach the engine."""
    schema, message = BAD[name]
    with pytest.raises(SchemaError, match=message) as raised:
        check_schema(schema)
    assert len(str(raised.value)) < 300
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    with pytest.raises(SchemaError, match="tool 'f'"):
        guided_fields([tool], None, None, None)


class Node(BaseModel):
    """Refers to itself."""

    name: str = Field(pattern=r"^[a-z]{1,20}$", max_length=200)
    kind: Literal["a", "b"] | None = None
    children: list[Node] = Field(default=[], max_length=50)
    scores: dict[str, float] = {}


@pytest.mark.parametrize(
    "schema",
    [
        Node.model_json_schema(),
        {},
        True,
        nested(30),
        nested(60, "array"),
        wide(900),
        {"enum": ["a", None, 5, {"b": 1}]},
        {"type": ["string", "integer"], "minLength": 2, "maxLength": 2, "minimum": -1, "maximum": 0.5},
        {"type": ["string", "null"], "pattern": r"^\p{L}+$"},
        {"type": "object", "additionalProperties": False, "properties": {}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "array", "items": {"$ref": "#"}}}},
        {"type": "object", "properties": {"type": {"type": "string"}, "enum": {"type": "integer"}}},
    ],
)
def test_a_good_schema_is_taken(schema: Any) -> None:
    """And reaches the engine as text."""
    check_schema(schema)
    if isinstance(schema, dict) and schema:
        shape = {"type": "json_schema", "json_schema": {"schema": schema}}
        sent = guided_fields([], None, None, shape)["structured_outputs"]["json"]
        assert json.loads(sent) == schema
