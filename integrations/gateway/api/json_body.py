"""A request's body as JSON, at a price that is known before it is read.

Python reads JSON in one go, in which nothing else runs in the process: so it must be short. What it costs
goes by the number of values more than by the number of bytes (4 MiB of one text 5 ms of a slow processor, of
`1,1,1` 200 ms, of short keys 250 ms), so values are counted first, by the characters that stand around
them. Those inside of texts count too: the limits leave room for 100,000 tokens of CSV or of JSON.
"""

from __future__ import annotations

import json
from typing import Any

from ...openai_format.schema_check import depth_above
from .errors import bad

MOST = {",": 200_000, '"': 150_000, "[": 50_000, "{": 50_000}
"""How many of these characters a body may have: values, texts (and keys; two each), lists, objects."""
MOST_DIGITS = 40
"""Of a whole number: for long ones Python takes quadratic time."""
MOST_DEPTH = 96
MOST_FIELDS = 200


def parse(raw: bytes) -> dict[str, Any]:
    """The body's JSON object.

    Raises:
        GatewayError: 400: no JSON, no object, too many values, or nested too deeply.
    """
    found = {character: raw.count(character.encode()) for character in MOST}
    for character, most in MOST.items():
        if found[character] > most:
            raise bad(None, f"the body has more than {most:,} of {character}", "too_many_values")
    try:
        value = json.loads(raw, parse_constant=_constant, parse_int=_whole)
        if b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except RecursionError:
        raise bad(None, "the body is nested too deeply", "invalid_json") from None
    except ValueError as error:
        raise bad(None, f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(value, dict):
        raise bad(None, "the body must be a JSON object", "invalid_json")
    if len(value) > MOST_FIELDS:
        raise bad(None, f"the body has {len(value):,} fields: at most {MOST_FIELDS}", "too_many_values")
    if found["["] + found["{"] > MOST_DEPTH and depth_above(value, MOST_DEPTH):
        raise bad(None, f"the body is nested more than {MOST_DEPTH} deep", "invalid_json")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)
