"""Which texts of a conversation its sender chose, and which belong to the wire or the template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
"""Roles that every template knows; other roles are a sender's text."""


TYPES = frozenset(
    [
        "string",
        "number",
        "integer",
        "object",
        "array",
        "boolean",
        "null",
        "any",
        "function",
        "custom",
        "text",
        "image",
        "image_url",
        "input_audio",
        "audio",
        "video",
        "file",
        "json_schema",
    ]
)
"""Types of JSON Schema, of tools and of a content's parts, which templates ask for by name."""


WORDS = frozenset(
    [
        "role",
        "content",
        "name",
        "type",
        "text",
        "id",
        "index",
        "function",
        "tool_calls",
        "tool_call_id",
        "parameters",
        "arguments",
        "properties",
        "required",
        "description",
        "enum",
        "items",
        "default",
        "title",
        "format",
        "strict",
        "reasoning",
        "reasoning_content",
        "thinking",
        "input",
        "output",
        "anyOf",
        "allOf",
        "oneOf",
        "not",
        "const",
        "additionalProperties",
        "patternProperties",
        "$defs",
        "$ref",
        "definitions",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "pattern",
        "json_schema",
        "schema",
        "nullable",
        "refusal",
        "image_url",
        "input_audio",
        "url",
        "data",
        "detail",
        "return",
        "custom",
    ]
)
"""The wire's own keys. All other keys are a sender's text."""


NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Keys directly below these are names that the sender chose."""


DATA = frozenset({"arguments", "input", "default", "const"})
"""All keys below these, at any depth, are names that the sender chose."""


def mapped(
    value: Any,
    change: Callable[[str], str],
    roles: frozenset[str] = ROLES,
    words: frozenset[str] | None = WORDS,
) -> Any:
    """A message, a tool or a template's option, with `change` applied to every text that its sender chose.

    Args:
        roles: roles that stay.
        words: keys that stay; None: no keys stay, here and below.
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [mapped(inner, change, roles, words and WORDS) for inner in value]
    if not isinstance(value, Mapping):
        return value
    changed = {}
    for key, inner in value.items():
        kept = roles if key == "role" else TYPES if key == "type" else frozenset()
        if not (words and isinstance(inner, str) and inner in kept):
            below = None if words is None or key in DATA else frozenset[str]() if key in NAMES else WORDS
            inner = mapped(inner, change, roles, below)
        changed[change(key) if isinstance(key, str) and (not words or key not in words) else key] = inner
    return changed


def texts(value: Any) -> Iterator[str]:
    """Every text in a nested value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)
