"""The values of XML parameters, which are text, as the tool's schema has them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from .json_bodies import strict_json
from .written_call import Call, Schema, checked_call


def typed_arguments(name: str, pairs: Sequence[tuple[str, str]], tools: Sequence[Schema]) -> Call:
    """The arguments as the tool's schema has them."""
    function: Mapping[str, Any] = next(
        (t["function"] for t in tools if t.get("function", {}).get("name") == name), {}
    )
    properties = (function.get("parameters") or {}).get("properties") or {}
    return checked_call(name, {key: _value(text, properties.get(key)) for key, text in pairs})


def _value(text: str, schema: Any) -> Any:
    kinds = _kinds(schema)
    if not kinds or kinds == {"string"}:
        return text
    trimmed = text.strip()
    if trimmed.lower() in ("null", "none") and "null" in kinds:
        return None
    if trimmed.lower() in ("true", "false") and "boolean" in kinds:
        return trimmed.lower() == "true"
    try:
        value = strict_json(trimmed)
    except (ValueError, RecursionError):
        try:  # some write Python's literals
            value = ast.literal_eval(trimmed) if "object" in kinds or "array" in kinds else text
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return text
    return value if _kind(value) & kinds else text


def _kind(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number"}
    if isinstance(value, dict):
        return {"object"}
    if isinstance(value, list):
        return {"array"}
    return {"null"} if value is None else set()


def _kinds(schema: Any) -> set[str]:
    """The types that a property's schema allows, as far as they can be read off it."""
    if not isinstance(schema, Mapping):
        return set()
    said = schema.get("type")
    kinds = {said} if isinstance(said, str) else set(said) if isinstance(said, list) else set()
    for part in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(part) or ():
            kinds |= _kinds(one)
    if "$ref" in schema:
        kinds |= {"object", "array", "string"}
    for value in schema.get("enum") or ():
        kinds |= _kind(value) or {"string"}
    return kinds
