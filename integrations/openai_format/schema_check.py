"""Limits and checks for JSON schemas that an engine is asked to keep to, before anything is spent.

An engine compiles a schema in the process that serves every client. A schema that is too deep or too large
blocks them all, and an invalid one fails there only after the thinking was paid for. Checked is the
structure: known types, whole numbers as counts, references that lead to a schema, patterns that compile.
Whether an engine supports each keyword is the engine's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_DEPTH = 64
"""Lists and objects within each other; vLLM died of 520."""
MOST_CHARACTERS = 100_000
MOST_PATTERN = 500
"""Characters of a pattern, and the product of its repetitions."""
MOST_REFERENCES = 16
"""References that lead to each other before there is a schema."""
MOST_OF = {
    "properties": 1_000,
    "enum entries": 1_000,
    "a sum of counts (minItems, maxLength, ...)": 10_000,
}
"""Limits over the whole schema. Enum entries include alternatives and lists of types; a grammar may be
unrolled as often as the counts say."""
_PROPERTIES, _ENTRIES, _COUNTS = MOST_OF

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
    """A schema that no engine is asked to keep to. Nothing was spent."""


def check_schema(schema: Any) -> None:
    """Check a schema and all schemas within it.

    Raises:
        SchemaError: it is too deep, too large, or no schema; the message says where.
    """
    if depth_above(schema, MOST_DEPTH):
        raise SchemaError(f"a schema may be nested {MOST_DEPTH} deep: flatten it, or use $defs and $ref")
    size = len(json.dumps(schema))
    if size > MOST_CHARACTERS:
        raise SchemaError(f"a schema may have {MOST_CHARACTERS:,} characters, not {size:,}")
    totals = dict.fromkeys(MOST_OF, 0)
    for where, one in _schemas(schema, ""):
        if isinstance(one, bool):
            continue
        if not isinstance(one, Mapping):
            raise SchemaError(f"{where or 'the schema'} must be an object, not a {type(one).__name__}")
        _check_level(one, where, schema, totals)
        for what, most in MOST_OF.items():
            if totals[what] > most:
                raise SchemaError(f"a schema may have {most:,} {what}: {where} is too many")


def _schemas(schema: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The schema and all schemas within it, with their places. The depth was checked before."""
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


def _check_level(one: Mapping[str, Any], where: str, root: Any, totals: dict[str, int]) -> None:
    """Check the keywords of one schema, and add what they hold to the totals."""
    place = f"{where}." if where else ""
    for name, value in one.items():
        if wanted := _wanted(name, value, root):
            raise SchemaError(f"{place}{name[:40]} must be {wanted}")
        if name in MAPS:
            totals[_PROPERTIES] += len(value)
        elif name in CHOICES or name == "enum":
            totals[_ENTRIES] += len(value)
        elif name in COUNTS:
            totals[_COUNTS] += value
    for least, most in BOUNDS:
        if least in one and most in one and one[least] > one[most]:
            raise SchemaError(f"{place}{least} must be at most {most}")


def _wanted(name: str, value: Any, root: Any) -> str | None:
    """What the keyword's value must be; None when it is fine."""
    good, wanted = True, ""
    if name == "type":
        types = value if isinstance(value, list) else [value]
        good = bool(types) and all(isinstance(kind, str) and kind in TYPES for kind in types)
        wanted = f"one of {', '.join(TYPES)}, or a list of these"
    elif name in MAPS:
        good, wanted = isinstance(value, Mapping), "an object of schemas"
        if good and name == "patternProperties":
            good, wanted = all(map(_is_pattern, value)), "patterns that can be compiled"
    elif name in CHOICES or name == "enum":
        good = isinstance(value, list) and bool(value)
        wanted = f"a list of {'values' if name == 'enum' else 'schemas'}"
    elif name == "required":
        good = isinstance(value, list) and all(isinstance(key, str) for key in value)
        wanted = "a list of names"
    elif name in COUNTS:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        wanted = "a whole number, 0 or more"
    elif name in NUMBERS:
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
        wanted = "a number below 2^63"
    elif name == "pattern":
        good, wanted = _is_pattern(value), f"a pattern of at most {MOST_PATTERN} characters and repeats"
    elif name == "$ref":
        good = _leads_somewhere(value, root)
        wanted = "a reference within the schema, like #/$defs/NAME, and not to itself"
    return None if good else wanted


def _is_pattern(pattern: Any) -> bool:
    """Whether it is a pattern that compiles, within the limits."""
    if not isinstance(pattern, str) or len(pattern) > MOST_PATTERN or "\0" in pattern:
        return False
    repeats = 1
    for least, most in re.findall(r"\{(\d{1,9})(?:,(\d{0,9}))?\}", pattern):
        repeats *= max(1, int(least), int(most or 0))
    if repeats > MOST_PATTERN or re.search(r"\{\d{10}", pattern):
        return False
    try:
        re.compile(re.sub(r"\\[pP]\{\w+\}", "a", pattern))  # Python lacks Unicode's classes
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _leads_somewhere(reference: Any, root: Any) -> bool:
    """Whether a reference leads to a schema, over few further references: an engine can't write a circle."""
    for _ in range(MOST_REFERENCES):
        found = _referred(reference, root)
        if found is None or isinstance(found, bool) or "$ref" not in found:
            return found is not None
        reference = found["$ref"]
    return False


def _referred(reference: Any, root: Any) -> Mapping[str, Any] | bool | None:
    """The schema that a reference names; None when there is none."""
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


def depth_above(value: Any, most: int) -> bool:
    """Whether lists and objects are nested deeper than `most`. Level by level: recursion could overflow."""
    level = [value]
    for _ in range(most):
        inner: list[Any] = []
        for one in level:
            below = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            inner += [each for each in below if isinstance(each, dict | list)]
        if not inner:
            return False
        level = inner
    return True
