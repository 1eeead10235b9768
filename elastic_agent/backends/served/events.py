"""The events of an answer that is streamed as server-sent events, each a JSON object."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from ...errors import BackendError, BackendProtocolError


async def events_in(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, up to [DONE].

    Lines may have any length; aiohttp's own line reader stops at 128 KiB.
    """
    rest, more = b"", True
    while more:
        piece = await _read(response)
        more = bool(piece)
        *lines, rest = (rest + piece).split(b"\n") if more else (rest, b"")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield _event(data)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """What has come; b"" at the end."""
    try:
        return await response.content.readany()
    except RuntimeError as error:  # how aiohttp says that its session was closed meanwhile
        raise aiohttp.ClientConnectionError(str(error)) from error


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data.decode())  # bytes have their encoding guessed first
    except (ValueError, RecursionError) as error:
        raise BackendProtocolError(f"a malformed event from the server: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise BackendProtocolError(f"an unexpected event from the server: {data[:80]!r}")
    if "error" in event:
        raise BackendError(f"the server failed in the middle of the stream: {str(event['error'])[:500]}")
    return event
