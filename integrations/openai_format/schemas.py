"""JSON schemas that an engine is asked to guide by: checked and bounded before anything is spent.

An engine compiles a schema in the process that serves everybody, so a schema that is too deep or too large
stands in everybody's way, and a bad one is found out there only after the thinking was paid for. What is
looked at here is the structure: known types, whole numbers where counts stand, references that lead somewhere
within the schema, patterns that can be compiled. Whether an engine knows each keyword is the engine's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_DEPTH = 64
"""Of lists and objects within each other; vLLM died of 520."""
MOST_CHARACTERS = 100_000
MOST_PROPERTIES = 1_000
MOST_CHOICES = 1_000
"""Entries of enums, alternatives and lists of types, all together."""
MOST_COUNT = 10_000
"""Sum of all counts (minItems, maxLength, ...): a grammar may be unrolled that often."""
MOST_PATTERN = 500
"""Characters of a pattern, and the product of its repetitions."""
MOST_STEPS = 16
"""From a reference to a reference, until there is a schema."""
TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
BOUNDS = (
    *(("minItems", "maxItems"), ("minLength", "maxLength"), ("minProperties", "maxProperties")),
    ("minimum", "maximum"),
)
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
CHOICES = ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SINGLE = (
    *("items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains"),
    *("propertyNames", "unevaluatedProperties", "unevaluatedItems"),
)


class SchemaError(ValueError):
    """A schema that no engine is asked to guide by. Nothing was spent."""


def check_schema(schema: Any) -> None:
    """Look through a schema.

    Raises:
        SchemaError: it is too deep or too large, or no schema; the message says where.
    """
    if _depth_above(schema, MOST_DEPTH):
        raise SchemaError(f"a schema may be nested {MOST_DEPTH} deep: flatten it, or use $defs and $ref")
    size = len(json.dumps(schema))
    if size > MOST_CHARACTERS:
        raise SchemaError(f"a schema may have {MOST_CHARACTERS:,} characters, not {size:,}")
    sizes = dict.fromkeys(("properties", "choices", "count"), 0)
    for where, one in _schemas(schema, ""):
        if isinstance(one, bool):
            continue
        if not isinstance(one, Mapping):
            raise SchemaError(f"{where or 'the schema'} must be an object, not a {type(one).__name__}")
        _check(one, where, schema, sizes)
        for what, most in (
            ("properties", MOST_PROPERTIES),
            ("choices", MOST_CHOICES),
            ("count", MOST_COUNT),
        ):
            if sizes[what] > most:
                known = {"count": "a sum of counts (minItems, maxLength, ...)", "choices": "enum entries"}
                raise SchemaError(f"a schema may have {most:,} {known.get(what, what)}: {where} is too many")


def _schemas(schema: Any, where: str) -> Iterator[tuple[str, Any]]:
    """A schema and all that are within it, with their places. The depth was checked before."""
    yield where, schema
    if not isinstance(schema, Mapping):
        return
    for name, value in schema.items():
        place = f"{where}.{name[:40]}" if where else str(name)[:40]
        if name in MAPS and isinstance(value, Mapping):
            for key, inner in value.items():
                yield from _schemas(inner, f"{place}.{key[:40]}")
        elif name in CHOICES and isinstance(value, list):
            for number, inner in enumerate(value):
                yield from _schemas(inner, f"{place}[{number}]")
        elif name in SINGLE and not isinstance(value, list):
            yield from _schemas(value, place)


def _check(one: Mapping[str, Any], where: str, root: Any, sizes: dict[str, int]) -> None:
    """One level of a schema."""

    def wrong(name: str, what: str) -> SchemaError:
        return SchemaError(f"{where + '.' if where else ''}{name[:40]} must be {what}")

    for name, value in one.items():
        if name == "type":
            types = value if isinstance(value, list) else [value]
            if not types or not all(isinstance(kind, str) and kind in TYPES for kind in types):
                raise wrong(name, f"one of {', '.join(TYPES)}, or a list of these")
        elif name in MAPS:
            if not isinstance(value, Mapping):
                raise wrong(name, "an object of schemas")
            sizes["properties"] += len(value)
            if name == "patternProperties":
                for pattern in value:
                    _check_pattern(pattern, wrong(name, "patterns that can be compiled"))
        elif name in CHOICES:
            if not isinstance(value, list) or not value:
                raise wrong(name, "a list of schemas")
            sizes["choices"] += len(value)
        elif name == "enum":
            if not isinstance(value, list) or not value:
                raise wrong(name, "a list of values")
            sizes["choices"] += len(value)
        elif name == "required":
            if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
                raise wrong(name, "a list of names")
        elif name in COUNTS:
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise wrong(name, "a whole number, 0 or more")
            sizes["count"] += value
        elif name in NUMBERS:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
                raise wrong(name, "a number below 2^63")
        elif name == "pattern":
            _check_pattern(value, wrong(name, f"a pattern of at most {MOST_PATTERN} characters and repeats"))
        elif name == "$ref" and not _leads_somewhere(value, root):
            raise wrong(name, "a reference within the schema, like #/$defs/NAME, and not to itself")

    for least, most in BOUNDS:
        if least in one and most in one and one[least] > one[most]:
            raise wrong(least, f"at most {most}")


def _check_pattern(pattern: Any, wrong: SchemaError) -> None:
    if not isinstance(pattern, str) or len(pattern) > MOST_PATTERN or "\0" in pattern:
        raise wrong
    repeats = 1
    for least, most in re.findall(r"\{(\d{1,9})(?:,(\d{0,9}))?\}", pattern):
        repeats *= max(1, int(least), int(most or 0))
    if repeats > MOST_PATTERN or re.search(r"\{\d{10}", pattern):
        raise wrong
    try:
        re.compile(re.sub(r"\\[pP]\{\w+\}", "a", pattern))  # Python lacks Unicode's classes
    except (re.error, OverflowError, RecursionError):
        raise wrong from None


def _leads_somewhere(reference: Any, root: Any) -> bool:
    """To a schema, by way of a few further references at most. No engine can write what leads in a circle."""
    for _ in range(MOST_STEPS):
        found = _referred(reference, root)
        if found is None or isinstance(found, bool) or "$ref" not in found:
            return found is not None
        reference = found["$ref"]
    return False


def _referred(reference: Any, root: Any) -> Mapping[str, Any] | bool | None:
    """What a reference names."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    at = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping) and name in at:
            at = at[name]
        elif isinstance(at, list) and name.isdecimal() and len(name) < 6 and int(name) < len(at):
            at = at[int(name)]
        else:
            return None
    named = reference == "#" or reference.startswith("#/")
    return at if named and isinstance(at, Mapping | bool) else None


def _depth_above(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        inner: list[Any] = []
        for one in level:
            below = one.values() if isinstance(one, Mapping) else one if isinstance(one, list) else ()
            inner += [each for each in below if isinstance(each, Mapping | list)]
        if not inner:
            return False
        level = inner
    return True
