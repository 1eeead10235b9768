"""A request's body: its bytes, and its JSON in a bounded time.

While Python parses a JSON text, nothing else runs in the process, so parsing must be short. Its time depends
on the number of values more than on the number of bytes (4 MiB take 5 ms of a slow processor as one text, 200
ms as `1,1,1`, 250 ms as short keys). So values are counted before they are parsed, by the characters around
them. Such characters inside texts count, too; the limits leave room for 100,000 tokens of CSV or JSON.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import ClientError, web

from ...openai_format.schema_check import depth_above
from ..errors import GatewayError, bad_request
from ..ops.connections import mark_busy

MOST_OF = {",": 200_000, '"': 150_000, "[": 50_000, "{": 50_000}
"""How many of these characters a body may have: of values, texts and keys (two each), lists, objects."""
MOST_DIGITS = 40
"""Of an integer: Python parses long ones in quadratic time."""
MOST_DEPTH = 96
MOST_FIELDS = 200


async def read_body(request: web.Request, seconds: float) -> bytes:
    """The bytes of a JSON body.

    Args:
        seconds: for the body to arrive.

    Raises:
        GatewayError: 415 for another type or a compressed body, 408 for a slow one, 400 for a broken one,
            503 where too many requests run.
    """
    if request.content_type != "application/json":
        raise GatewayError(415, "send JSON: Content-Type: application/json", "not_json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise GatewayError(415, "send the body as it is, without a Content-Encoding", "compressed")
    try:
        async with asyncio.timeout(seconds):
            body = await request.read()
    except TimeoutError:
        raise GatewayError(408, f"the body took longer than {seconds:g} s", "slow_body") from None
    except web.HTTPException:
        raise
    except (ClientError, web.RequestPayloadError, ValueError) as error:
        raise bad_request(None, "the body is broken", "broken_body") from error
    mark_busy(request)
    return body


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        GatewayError: 400: no JSON, no object, too many values, or nested too deeply.
    """
    found = {character: raw.count(character.encode()) for character in MOST_OF}
    for character, most in MOST_OF.items():
        if found[character] > most:
            raise bad_request(None, f"the body has more than {most:,} of {character}", "too_many_values")
    try:
        value = json.loads(raw, parse_constant=_constant, parse_int=_integer)
        if b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except RecursionError:
        raise bad_request(None, "the body is nested too deeply", "invalid_json") from None
    except ValueError as error:
        raise bad_request(None, f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request(None, "the body must be a JSON object", "invalid_json")
    if len(value) > MOST_FIELDS:
        raise bad_request(
            None, f"the body has {len(value):,} fields: at most {MOST_FIELDS}", "too_many_values"
        )
    if found["["] + found["{"] > MOST_DEPTH and depth_above(value, MOST_DEPTH):
        raise bad_request(None, f"the body is nested more than {MOST_DEPTH} deep", "invalid_json")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)
