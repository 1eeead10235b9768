"""What a vLLM server says to the fields of a guided call, at no token.

vLLM checks a request's fields first and then its target engine (header `X-data-parallel-rank`). So a request
for an engine that doesn't exist is refused because of its fields, if they are bad, and else because of its
engine. A request without fields is sent first, once. A server that does not refuse that request doesn't know
the header and is not asked again; it has served one token (one for each of several calls that came at once).

Errors that only the grammar compiler in the engine finds stay unknown: it runs after the request was
accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import aiohttp

from ..base import Meter

NO_ENGINE = 2**31 - 1
REMEMBERED = 1024
"""How many accepted fields are remembered. Refused fields are asked for again."""
_SAYS_RANK = "data_parallel_rank"
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class AcceptedFields:
    """The fields that an engine has accepted: it is asked once, however many calls have the same fields."""

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, fields: Mapping[str, Any]) -> bool:
        return _digest(fields) in self._digests

    def add(self, fields: Mapping[str, Any]) -> None:
        """Remember the fields, and forget the oldest of more than REMEMBERED."""
        self._digests[_digest(fields)] = None
        if len(self._digests) > REMEMBERED:
            self._digests.popitem(last=False)


def _digest(fields: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=repr).encode()).digest()


class GuidedFieldsCheck:
    """Asks one server about one model.

    Args:
        url: of its completions.
        model: the name that the server serves it under.
        meter: where the token of a server that knows no such header is counted.
    """

    def __init__(self, url: str, model: str, meter: Meter) -> None:
        self._url, self._model, self._meter = url, model, meter
        self._tells: bool | None = None
        self._accepted = AcceptedFields()

    async def refusal(self, session: aiohttp.ClientSession, fields: Mapping[str, Any]) -> str:
        """Why the server refuses the fields; "" where it accepts them, or its answer doesn't say."""
        try:
            if self._tells is False or fields in self._accepted:
                return ""
            if self._tells is None:
                await self._ask(session, {})
            said = await self._ask(session, fields) if self._tells else None
        except (TypeError, ValueError):
            return ""  # they are no JSON: the call itself says so
        except (aiohttp.ClientError, TimeoutError, OSError):
            return ""
        if said == "":
            self._accepted.add(fields)
        return said or ""

    async def _ask(self, session: aiohttp.ClientSession, fields: Mapping[str, Any]) -> str | None:
        """Why the server refuses the fields; "" where it accepts them, None where its answer says neither."""
        body = {**fields, "model": self._model, "prompt": [0], "max_tokens": 1, "stream": False}
        headers = {"X-data-parallel-rank": str(NO_ENGINE)}
        async with session.post(self._url, json=body, headers=headers, timeout=_TIMEOUT) as response:
            text = await response.text(errors="replace")
        if response.status == 200:
            self._tells = False
            self._meter.requests += 1
            self._meter.input += 1
            self._meter.output += 1
            return None
        if response.status != 400:
            return None
        said = _message(text)
        if _SAYS_RANK in said:
            self._tells = True
            return ""
        return said if fields else None


def _message(text: str) -> str:
    """The sentence of an error in vLLM's form, on one line; never empty."""
    try:
        answer = json.loads(text)
        said = str(answer["error"]["message"])
    except (ValueError, RecursionError, LookupError, TypeError):
        said = text
    return " ".join(said.split())[:300] or "it says nothing"
