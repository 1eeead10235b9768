"""What the backend of every model server is made of: an address, a tokenizer, sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import aiohttp

from ...prompts.marker_profiles import MarkerText
from ...prompts.tokenizer import load_codec
from ...validation import MOST_SECONDS, integer, real
from ..base import Codec
from .connection import Connection
from .server_info import address, find_codec
from .sessions import Sessions

CONTEXT = 32_768
"""Tokens of a context until the server says how many."""


class ServerOptions(TypedDict, total=False):
    """How a server is reached, and what is known of its model.

    Attributes:
        api_key: sent as a bearer token.
        tokenizer: folder or hub id of the tokenizer, when the model's name is not one. Left out, the server
            is asked what it loaded (`root` in its `/models`): enough where that is a hub id or a folder of
            ours.
        codec: instead of `tokenizer`.
        markers: what begins and ends its thinking, where the tokenizer doesn't tell.
        context_length: where the server doesn't tell (`ready` asks).
        connect_timeout: seconds to reach the server (10).
        idle_timeout: seconds without a byte after which a stream counts as broken (300).
        headers: sent with every request.
        proxy: the URL of an HTTP proxy; None takes the environment's, "" none (`connection`).
    """

    api_key: str | None
    tokenizer: str | None
    codec: Codec | None
    markers: MarkerText | None
    context_length: int | None
    connect_timeout: float
    idle_timeout: float
    headers: Mapping[str, str] | None
    proxy: str | None


class ServedBackend:
    """The part that does not depend on the engine.

    Args:
        model: the name that the server serves it under.
        base_url: up to and with `/v1`, which is added to a bare host; see `server_info.address`.
        options: see `ServerOptions`.

    Attributes:
        context_length: as given, until the server says.
    """

    def __init__(self, model: str, base_url: str, options: ServerOptions) -> None:
        self.model = model
        self.base_url = address(base_url)
        connection = Connection.to(
            self.base_url, options.get("api_key"), options.get("headers"), options.get("proxy")
        )
        markers = options.get("markers")
        self.codec = options.get("codec") or find_codec(
            model,
            options.get("tokenizer"),
            self.base_url,
            connection,
            lambda where, name: load_codec(where, name=name, markers=markers),
        )
        length = options.get("context_length")
        self._given_length = None if length is None else integer("context_length", length, least=1)
        self.context_length = self._given_length or CONTEXT
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=_seconds(options.get("connect_timeout", 10.0), "connect_timeout"),
            sock_read=_seconds(options.get("idle_timeout", 300.0), "idle_timeout"),
        )
        self._sessions = Sessions(connection, timeout)

    @property
    def closed(self) -> bool:
        return self._sessions.closed

    async def aclose(self) -> None:
        """Close the connections of this event loop; other loops' connections close with their loop."""
        await self._sessions.aclose()


def _seconds(value: float, name: str) -> float:
    return real(name, value, above=True, most=MOST_SECONDS)
